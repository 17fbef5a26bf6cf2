// How a run's config is settled, and what of it is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "errors.h"
#include "recipes/effects.h"
#include "recipes/recipes.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
using testing::refusal_of;

TEST(Settle, TheSchemeDecidesTheRatesHoweverItIsSpelt) {
  const std::string name = "ministral3_3b_sft_config";
  FinetuneArguments arguments;
  arguments.name = name;
  arguments.peft = "lora";
  const std::string expected = to_yaml(recipe(name, arguments));
  EXPECT_EQ(to_yaml(settle(name, {}, {{"peft.scheme", "lora"}}).config), expected);
  EXPECT_EQ(to_yaml(settle(name, {{"peft.scheme", "lora"}}, {}).config), expected);
  EXPECT_EQ(to_yaml(settle(name, {{"peft.scheme", "dora"}}, {{"peft.scheme", "lora"}}).config),
            expected);
  arguments.peft = "none";
  for (const std::string none : {"none", ""}) {
    EXPECT_EQ(to_yaml(settle("ministral3_3b_peft_config", {}, {{"peft.scheme", none}}).config),
              to_yaml(recipe("ministral3_3b_peft_config", arguments)));
  }
  // A rate that is given stays.
  EXPECT_EQ(settle(name, {{"optimizer.lr", "3e-4"}}, {{"peft.scheme", "lora"}}).config.optimizer.lr,
            3e-4);
}

TEST(Settle, WithoutAPathTheDataAreTheMakers) {
  const auto path = [](const std::string& maker, const std::string& given) {
    DatasetOptions dataset;
    dataset.maker_name = maker;
    dataset.path_or_dataset = given;
    name_data(dataset);
    return dataset.path_or_dataset;
  };
  EXPECT_EQ(path("make_cord_v2_dataset", ""), "naver-clova-ix/cord-v2");
  EXPECT_EQ(path("make_medpix_dataset", ""), "mmoukouba/MedPix-VQA");
  EXPECT_EQ(path("make_raven_dataset", ""), "HuggingFaceM4/the_cauldron");
  EXPECT_EQ(path("make_raven_dataset", "own"), "own");
  EXPECT_EQ(path("jsonl", ""), "");
}

TEST(Settle, WhatCanHaveNoEffectIsRefused) {
  using Keys = std::vector<Assignment>;
  const auto said = [](const Keys& keys) {
    return refusal_of([&] {
      const SettledRun run = settle("ministral3_3b_sft_config", {}, keys);
      run.config.validate_values();
      refuse_without_effect(run);
    });
  };
  const std::vector<std::pair<Keys, std::string>> dead = {
      {{{"peft.dim", "8"}}, "peft.dim=8 has no effect: peft.scheme is empty"},
      {{{"model.recompute_method", "block"}}, "model.recompute_granularity=none"},
      {{{"train.max_steps_on_nan", "3"}}, "train.on_nan=stop"},
      {{{"optimizer.min_lr", "1e-7"}, {"scheduler.lr_decay_style", "constant"}}, "never falls"},
      {{{"scheduler.lr_decay_iters", "40"}, {"scheduler.lr_decay_style", "constant"}}, "not decay"},
      {{{"scheduler.lr_warmup_init", "1e-7"}, {"scheduler.lr_warmup_iters", "0"}}, "no warm-up"},
      {{{"validation.answers", "3"}, {"train.eval_interval", "0"}}, "turns validation off"},
      {{{"validation.max_new_tokens", "3"}}, "nothing is answered"},
      {{{"dataset.feature_cache_mb", "3"}}, "no features can be kept"},
      {{{"dataset.subset", "few"}, {"dataset.path_or_dataset", "./here"}},
       "no data set on the Hub"},
      {{{"validation.subset", "few"}, {"dataset.path_or_dataset", "./here"}},
       "no data set on the Hub"},
      {{{"validation.subset", "few"},
        {"dataset.path_or_dataset", "org/set"},
        {"validation.path_or_dataset", "./here"}},
       "./here is no data set on the Hub"},
      {{{"dataset.subset", "few"}, {"dataset.blend", "[./a, ./b]"}}, "no set of dataset.blend"},
      {{{"dataset.split", "dev"}, {"dataset.blend", "[./a.jsonl, ./b.jsonl]"}},
       "no set of dataset.blend"},
      {{{"dataset.maker_name", "parquet"},
        {"dataset.blend", "[{path: ./a.jsonl, maker_name: jsonl}]"}},
       "no set of dataset.blend"},
      {{{"dataset.blend", "[{path: ./a.jsonl, maker_name: jsonl, split: dev}]"}},
       "dataset.blend: split: dev"},
      {{{"dataset.blend", "[{path: ./a, subset: few}]"}}, "dataset.blend: subset: few"},
      {{{"validation.sets", "[{name: a, path: ./a, subset: few}]"}},
       "validation.sets: subset: few"},
      {{{"validation.split", "dev"}, {"validation.sets", "[{name: a, path: ./a.parquet}]"}},
       "no set of validation.sets"},
      {{{"validation.subset", "few"}, {"validation.sets", "[{name: a, path: org/set}]"}},
       "no set of validation.sets"},
      {{{"logger.wandb_entity", "me"}}, "Weights & Biases is off"},
      {{{"peft.scheme", "lora"},
        {"peft.lora_A_init_method", "pissa"},
        {"peft.lora_B_init_method", "normal"}},
       "settles both"},
      {{{"dataset.shuffle", "false"}, {"rng.seed", "3"}}, "nothing is drawn"},
      {{{"dataset.shuffle", "false"},
        {"peft.scheme", "lora"},
        {"peft.lora_A_init_method", "pissa"},
        {"rng.seed", "3"}},
       "nothing is drawn"}};
  for (const auto& [keys, why] : dead) {
    expect_mentions(said(keys), {" has no effect: ", why});
  }
  for (const Keys& keys :
       std::vector<Keys>{{{"peft.scheme", "lora"}, {"peft.dim", "8"}},
                         {{"train.on_nan", "skip"}, {"train.max_steps_on_nan", "3"}},
                         {{"validation.answers", "3"}, {"validation.max_new_tokens", "3"}},
                         {{"peft.scheme", "lora"}, {"dataset.feature_cache_mb", "3"}},
                         {{"dataset.shuffle", "false"}, {"peft.scheme", "lora"}, {"rng.seed", "3"}},
                         {{"dataset.maker_name", "jsonl"}, {"dataset.blend", "[./a.jsonl, ./b]"}},
                         {{"dataset.split", "dev"}, {"dataset.blend", "[org/set, ./b]"}},
                         {{"validation.split", "dev"},
                          {"validation.sets", "[{name: a, path: org/set, subset: few}]"}},
                         {{"peft.dim", std::nullopt}}}) {
    EXPECT_EQ(said(keys), std::nullopt);
  }
  // A file may be a whole resolved config.
  const auto file =
      flatten_yaml(load_yaml(to_yaml(recipe("ministral3_3b_sft_config")), "file"), "");
  EXPECT_NO_THROW(refuse_without_effect(settle("ministral3_3b_sft_config", file, {})));
  EXPECT_REFUSED(refuse_without_effect(settle("ministral3_3b_sft_config", {{"peft.dim", "8"}}, {})),
                 "peft.dim=8 has no effect");
}

TEST(Settle, TheLastValueOnACommandLineCountsAndIsTold) {
  const SettledRun run =
      settle("demo_config", {},
             {{"train.train_iters", "20"}, {"train.eval_iters", "3"}, {"train.train_iters", "30"}});
  EXPECT_EQ(run.config.train.train_iters, 30);
  EXPECT_EQ(run.notes, std::vector<std::string>{"train.train_iters=20 gives way to "
                                                "train.train_iters=30, which comes later"});
  EXPECT_TRUE(settle("demo_config", {{"rng.seed", "1"}}, {{"rng.seed", "2"}}).notes.empty());
}

// The last numbers that a range holds, and the first ones that it does not.
struct Edges {
  std::vector<std::string> inside, outside;
};

template <class Number>
Edges edges_of(const Range& range) {
  // 1 further; of a double the next one.
  const auto beside = [](Number value, int direction) {
    if constexpr (std::is_same_v<Number, int64_t>) return value + direction;
    return static_cast<Number>(std::nextafter(value, value + direction));
  };
  const auto low = static_cast<Number>(range.low);
  Edges edges = {.inside = {format_value(range.above_low ? beside(low, 1) : low)},
                 .outside = {format_value(range.above_low ? low : beside(low, -1))}};
  if (!std::isinf(range.high)) {
    const auto high = static_cast<Number>(range.high);
    edges.inside.push_back(format_value(range.below_high ? beside(high, -1) : high));
    edges.outside.push_back(format_value(range.below_high ? high : beside(high, 1)));
  }
  if (range.or_zero) {
    edges.inside.push_back("0");
    std::erase(edges.outside, "0");
    edges.outside.push_back("-1");
  }
  return edges;
}

// visit(path, edges, text of what is allowed) of every number.
template <HasFields T>
void for_each_range(const T& config, const std::string& prefix, const auto& visit) {
  for_each_field(config, [&](const auto& each, const auto& value) {
    const std::string path = prefix + std::string(each.name);
    using Value = std::decay_t<decltype(value)>;
    if constexpr (HasFields<Value>) {
      for_each_range(value, path + ".", visit);
    } else if constexpr (std::is_same_v<std::decay_t<decltype(each.allowed)>, Range>) {
      visit(path, edges_of<detail::PlainOf<Value>>(each.allowed), each.allowed.text());
    }
  });
}

TEST(Settle, EveryNumberHasItsRange) {
  int64_t numbers = 0;
  const auto said = [](const std::string& path, const std::string& value) {
    return refusal_of([&] { settle("demo_config", {}, {{path, value}}); });
  };
  for_each_range(TrainConfig{}, "",
                 [&](const std::string& path, const Edges& edges, const std::string& allowed) {
                   ++numbers;
                   for (const std::string& value : edges.inside) {
                     EXPECT_EQ(said(path, value), std::nullopt) << path << "=" << value;
                   }
                   for (const std::string& value : edges.outside) {
                     EXPECT_EQ(said(path, value), path + "=" + value + ": " + allowed);
                   }
                   for (const char* value : {"nan", "inf", "-inf", "1e17", "99999999999999999"}) {
                     const std::string error = said(path, value).value_or("");
                     EXPECT_TRUE(error.starts_with(path + "=") && error.ends_with(allowed))
                         << error;
                   }
                 });
  EXPECT_EQ(numbers, 54);
  // The ones that trained on once, each with what it may be.
  for (const auto& [given, allowed] : std::map<std::string, std::string>{
           {"optimizer.adam_beta1=2", "must be at least 0 and below 1"},
           {"optimizer.adam_beta2=1", "must be at least 0 and below 1"},
           {"optimizer.adam_eps=-1", "must be above 0 and at most 1"},
           {"optimizer.adam_eps=0", "must be above 0 and at most 1"},
           {"optimizer.clip_grad=nan", "must be at least 0 and at most 1000000000"},
           {"optimizer.weight_decay=-5", "must be at least 0 and at most 10"},
           {"scheduler.lr_decay_iters=-3", "must be at least 1 and at most 1000000000"},
           {"scheduler.lr_warmup_init=-1", "must be at least 0 and at most 10"},
           {"peft.dropout=1", "must be at least 0 and below 1"},
           {"train.loss_spike_factor=0.5", "must be above 1 and at most 1000000, or 0 for none"}}) {
    EXPECT_EQ(error_of([&] { settle("demo_config", {}, {parse_override(given)}); }),
              given + ": " + allowed);
  }
}

TEST(Settle, RunsThatCannotBeAreRefused) {
  const auto said = [](const std::vector<Assignment>& keys) {
    return refusal_of(
        [&] { settle("ministral3_3b_sft_config", {}, keys).config.validate_values(); });
  };
  EXPECT_EQ(said({{"train.train_iters", "10"}}),
            "scheduler.lr_warmup_iters=10 is not below train.train_iters=10; lower it, or make the "
            "run longer");
  EXPECT_EQ(said({{"train.train_iters", "11"}}), std::nullopt);
  EXPECT_EQ(said({{"train.train_iters", "10"}, {"scheduler.lr_decay_iters", "11"}}), std::nullopt);
  EXPECT_EQ(said({{"scheduler.lr_warmup_init", "1e-5"}}),
            "scheduler.lr_warmup_init=1e-05 is above optimizer.lr=5e-06");
  EXPECT_EQ(said({{"optimizer.min_lr", "1e-5"}}),
            "optimizer.min_lr=1e-05 is above optimizer.lr=5e-06");
}

}  // namespace
}  // namespace trestle
