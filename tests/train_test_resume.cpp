// What a run goes on from, and what it must not be: another run's checkpoint, another run's
// directory.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/file.h"
#include "errors.h"
#include "train/identity.h"
#include "train/run_directory.h"
#include "train/settle.h"
#include "train_run_testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNone = "no error";  // error_of

class Resume : public testing::RunTest {
 protected:
  TrainConfig lora(const std::string& name) const {
    TrainConfig config = this->config(name);
    config.peft.scheme = "lora";
    config.peft.dim = 4;
    config.dataset.num_workers = 0;
    return config;
  }
  // Three of six steps, and the config to go on with.
  TrainConfig begun(TrainConfig config) const {
    config.train.exit_interval = 3;
    Trainer(config).run();
    config.train.exit_interval.reset();
    config.checkpoint.load = config.checkpoint.save;
    return config;
  }
  static std::string refusal(const TrainConfig& config, const std::set<std::string>& may = {}) {
    return error_of([&] { const Trainer trainer(config, {.keys = {}, .may_change = may}); });
  }
};

// Another value of every key, so that none is forgotten: keys without one fail the test.
const std::map<std::string, std::string>& other_values() {
  static const std::map<std::string, std::string> table = {
      {"model.tensor_model_parallel_size", "2"},
      {"model.pipeline_model_parallel_size", "2"},
      {"model.context_parallel_size", "2"},
      {"model.sequence_parallel", "true"},
      {"model.seq_length", "100"},
      {"model.freeze_language_model", "true"},
      {"model.freeze_vision_model", "true"},
      {"model.freeze_vision_projection", "true"},
      {"model.params_dtype", "float32"},
      {"model.recompute_granularity", "full"},
      {"model.recompute_method", "block"},
      {"model.recompute_num_layers", "2"},
      {"train.train_iters", "9"},
      {"train.global_batch_size", "8"},
      {"train.micro_batch_size", "2"},
      {"train.exit_interval", "5"},
      {"train.on_nan", "skip"},
      {"train.max_steps_on_nan", "3"},
      {"train.loss_spike_factor", "9"},
      {"validation.eval_interval", "2"},
      {"validation.eval_iters", "2"},
      {"validation.path_or_dataset", "elsewhere"},
      {"validation.split", "test"},
      {"validation.answers", "1"},
      {"validation.max_new_tokens", "7"},
      {"validation.best_metric", "valid_loss"},
      {"optimizer.lr", "2e-3"},
      {"optimizer.min_lr", "1e-6"},
      {"optimizer.weight_decay", "0.2"},
      {"optimizer.adam_beta1", "0.8"},
      {"optimizer.adam_beta2", "0.9"},
      {"optimizer.adam_eps", "1e-7"},
      {"optimizer.clip_grad", "0.5"},
      {"scheduler.lr_decay_style", "linear"},
      {"scheduler.lr_warmup_iters", "1"},
      {"scheduler.lr_warmup_init", "1e-7"},
      {"scheduler.lr_decay_iters", "50"},
      {"dataset.maker_name", "parquet"},
      {"dataset.split", "test"},
      {"dataset.shuffle", "false"},
      {"dataset.num_workers", "1"},
      {"dataset.pack_sequences_in_batch", "true"},
      {"dataset.overlong", "drop"},
      {"dataset.image_max_edge", "56"},
      {"dataset.image_max_tokens", "20"},
      {"dataset.feature_cache", "cache"},
      {"dataset.feature_cache_mb", "1"},
      {"peft.scheme", "dora"},
      {"peft.dim", "2"},
      {"peft.alpha", "1"},
      {"peft.dropout", "0.5"},
      {"peft.target_modules", "[linear_qkv]"},
      {"peft.lora_A_init_method", "pissa"},
      {"peft.lora_B_init_method", "normal"},
      {"peft.use_rslora", "true"},
      {"peft.lora_plus_ratio", "2"},
      {"peft.base_bits", "8"},
      {"checkpoint.save", "elsewhere"},
      {"checkpoint.load", "elsewhere"},
      {"checkpoint.save_interval", "1"},
      {"logger.log_interval", "2"},
      {"logger.tensorboard_dir", "elsewhere"},
      {"logger.wandb_project", "p"},
      {"logger.wandb_entity", "e"},
      {"logger.wandb_exp_name", "n"},
      {"logger.wandb_save_dir", "elsewhere"},
      {"rng.seed", "5"}};
  return table;
}

TEST(Identity, EveryKeyIsSaidToBeTheSameOrFree) {
  const TrainConfig config;
  const RunIdentity saved = identity_of(config, {});
  int64_t same = 0, free = 0;
  for (const FieldText& field : list_fields(config)) {
    if (field.on_resume == OnResume::kSameContent) continue;
    const auto other = other_values().find(field.path);
    ASSERT_NE(other, other_values().end()) << field.path << " has no other value here";
    TrainConfig changed = config;
    set_field(changed, {field.path, other->second});
    const RunIdentity now = identity_of(changed, {});
    const std::string said = error_of([&] { require_same_run(saved, now, {}, "run"); });
    if (field.on_resume != OnResume::kSame) {
      EXPECT_EQ(said, kNone) << field.path;
      // Checkpoints of runs that differ in nothing else are the same bytes.
      EXPECT_EQ(now.to_json(), saved.to_json()) << field.path;
      ++free;
      continue;
    }
    ASSERT_NE(now.values.at(field.path), saved.values.at(field.path)) << field.path;
    ++same;
    // Key and both values.
    EXPECT_NE(said.find(fmt::format("{}={} (there: ", field.path, now.values.at(field.path))),
              std::string::npos)
        << said;
    EXPECT_NE(said.find(saved.values.at(field.path)), std::string::npos) << said;
    EXPECT_NE(said.find("--allow-change " + field.path), std::string::npos) << said;
    EXPECT_EQ(error_of([&] { require_same_run(saved, now, {field.path}, "run"); }), kNone);
  }
  // What is read from the tables above; a table that says nothing would pass all of this.
  EXPECT_EQ(same, 27);
  EXPECT_GE(free, 30);
}

TEST(Identity, WhatARunIsMadeOfIsNeverFree) {
  std::map<std::string, OnResume> classes;
  for (const FieldText& field : list_fields(TrainConfig{})) classes[field.path] = field.on_resume;
  for (const char* key : {"peft.scheme",
                          "peft.dim",
                          "peft.alpha",
                          "peft.dropout",
                          "peft.use_rslora",
                          "peft.target_modules",
                          "peft.lora_A_init_method",
                          "peft.lora_B_init_method",
                          "peft.base_bits",
                          "rng.seed",
                          "dataset.shuffle",
                          "dataset.split",
                          "dataset.maker_name",
                          "dataset.overlong",
                          "dataset.image_max_edge",
                          "dataset.image_max_tokens",
                          "dataset.pack_sequences_in_batch",
                          "model.seq_length",
                          "model.params_dtype",
                          "model.freeze_language_model",
                          "model.freeze_vision_model",
                          "model.freeze_vision_projection",
                          "train.global_batch_size",
                          "train.micro_batch_size"}) {
    EXPECT_EQ(classes.at(key), OnResume::kSame) << key;
  }
  for (const char* key :
       {"checkpoint.pretrained_checkpoint", "dataset.path_or_dataset", "peft.adapter_path"}) {
    EXPECT_EQ(classes.at(key), OnResume::kSameContent) << key;
  }
  for (const char* key : {"train.train_iters", "optimizer.lr", "optimizer.min_lr",
                          "dataset.num_workers", "logger.log_interval", "validation.answers"}) {
    EXPECT_EQ(classes.at(key), OnResume::kFree) << key;
  }
}

TEST(Identity, AKeyThatCameLaterHadItsDefault) {
  const TrainConfig config;
  RunIdentity saved = identity_of(config, {});
  saved.values.erase("peft.use_rslora");
  TrainConfig now = config;
  EXPECT_EQ(error_of([&] { require_same_run(saved, identity_of(now, {}), {}, "run"); }), kNone);
  now.peft.use_rslora = true;
  EXPECT_NE(error_of([&] {
              require_same_run(saved, identity_of(now, {}), {}, "run");
            }).find("peft.use_rslora=true (there: false)"),
            std::string::npos);
}

TEST(Identity, KeysThatMayChangeNeedNoPermission) {
  EXPECT_EQ(error_of([] { require_changeable({"peft.alpha", "dataset.path_or_dataset"}); }), kNone);
  EXPECT_NE(error_of([] { require_changeable({"optimizer.lr"}); }).find("has no effect"),
            std::string::npos);
  EXPECT_NE(error_of([] { require_changeable({"peft.alhpa"}); }).find("did you mean peft.alpha?"),
            std::string::npos);
}

TEST(Identity, HostileOnesAreRefused) {
  for (const char* text : {"3", "{}", R"({"values": {}})", R"({"values": [], "contents": {}})",
                           R"({"values": {"a": 1}, "contents": {}})"}) {
    EXPECT_NE(error_of([&] { RunIdentity::from_json(Json::parse(text), "run"); }).find("run: "),
              std::string::npos)
        << text;
  }
}

TEST_F(Resume, AnotherRunIsRefusedAndLeavesAllAsItWas) {
  const TrainConfig saved = begun(lora("run"));
  const auto files = [&] {
    std::map<std::string, std::string> out;
    for (const auto& each : fs::recursive_directory_iterator(saved.checkpoint.save)) {
      if (each.is_regular_file()) out[each.path().string()] = read_text(each.path());
    }
    return out;
  };
  const auto before = files();
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"peft.alpha", "1"},
                                          {"peft.use_rslora", "true"},
                                          {"peft.target_modules", "[linear_qkv]"},
                                          {"peft.lora_A_init_method", "kaiming"},
                                          {"peft.scheme", "dora"},
                                          {"rng.seed", "5"},
                                          {"model.seq_length", "99"}}) {
    TrainConfig other = saved;
    apply_override(other, key + "=" + value);
    EXPECT_NE(refusal(other).find(key + "="), std::string::npos) << refusal(other);
  }
  EXPECT_EQ(files(), before);
  TrainConfig allowed = saved;
  allowed.rng.seed = 5;
  EXPECT_EQ(refusal(allowed, {"rng.seed"}), kNone);
  // A permission for one key is none for another.
  allowed.peft.alpha = 1;
  EXPECT_NE(refusal(allowed, {"rng.seed"}).find("peft.alpha=1 (there: 32)"), std::string::npos);
  EXPECT_EQ(refusal(saved), kNone);
}

// Even where the key is let be: no tensor is dropped.
TEST_F(Resume, TensorsThatNobodyTakesAreRefused) {
  TrainConfig fewer = begun(lora("run"));
  fewer.peft.target_modules = {"linear_qkv"};
  EXPECT_NE(refusal(fewer, {"peft.target_modules"}).find("no place for"), std::string::npos)
      << refusal(fewer, {"peft.target_modules"});
  TrainConfig dora = this->lora("dora");
  dora.peft.scheme = "dora";
  dora = begun(dora);
  dora.peft.scheme = "lora";
  EXPECT_NE(refusal(dora, {"peft.scheme"}).find("no place for"), std::string::npos);
  TrainConfig pissa = this->lora("pissa");
  pissa.peft.lora_A_init_method = "pissa";
  pissa = begun(pissa);
  pissa.peft.lora_A_init_method = "xavier";
  EXPECT_NE(refusal(pissa, {"peft.lora_A_init_method"}).find("no place for"), std::string::npos);
}

TEST_F(Resume, BaseAndDataAreKnownByTheirContent) {
  const fs::path base = directory_ / "base", moved = directory_ / "moved";
  fs::copy("fixtures/hf", base, fs::copy_options::recursive);
  TrainConfig config = lora("run");
  config.checkpoint.pretrained_checkpoint = base.string();
  const TrainConfig saved = begun(config);
  fs::rename(base, moved);
  fs::copy_file(directory_ / "data.jsonl", moved / "data.jsonl");
  TrainConfig same = saved;
  same.checkpoint.pretrained_checkpoint = moved.string();
  same.dataset.path_or_dataset = (moved / "data.jsonl").string();
  EXPECT_EQ(refusal(same), kNone);

  std::string data = read_text(moved / "data.jsonl");
  data[data.find("count 3") + 6] = '9';
  write_text(moved / "data.jsonl", data);
  EXPECT_NE(refusal(same).find("dataset.path_or_dataset="), std::string::npos) << refusal(same);
  EXPECT_EQ(refusal(same, {"dataset.path_or_dataset"}), kNone);

  same = saved;
  same.checkpoint.pretrained_checkpoint = moved.string();
  // One bit of the last weight of the file.
  std::string weights = read_text(moved / "model.safetensors");
  weights.back() = static_cast<char>(weights.back() ^ 1);
  write_text(moved / "model.safetensors", weights);
  EXPECT_NE(refusal(same).find("checkpoint.pretrained_checkpoint="), std::string::npos);
  EXPECT_EQ(refusal(same, {"checkpoint.pretrained_checkpoint"}), kNone);
}

TEST_F(Resume, AnAdapterSaysWhatTheConfigThenSays) {
  TrainConfig config = this->config("run");
  config.peft.scheme = "dora";
  config.peft.adapter_path = "fixtures/megatron/dora";
  const TrainConfig saved = begun(config);
  const Trainer trainer(saved);
  const LoraConfig held = lora_config_of(const_cast<Trainer&>(trainer).model());
  EXPECT_EQ(trainer.config().peft.dim, held.dim);
  EXPECT_NE(held.dim, LoraConfig{}.dim);
  EXPECT_EQ(trainer.config().peft.target_modules, held.target_modules);
  TrainConfig asked = saved;
  asked.peft.dim = held.dim + 1;
  EXPECT_NE(error_of([&] {
              const Trainer other(asked, {.keys = {"peft.dim"}, .may_change = {}});
            }).find(fmt::format("has peft.dim={} but {} was asked for", held.dim, held.dim + 1)),
            std::string::npos);
  asked = saved;
  asked.peft.adapter_path.clear();
  EXPECT_NE(refusal(asked).find("peft.adapter_path="), std::string::npos) << refusal(asked);
}

TEST_F(Resume, ARunIsNotWrittenOver) {
  const TrainConfig first = lora("run");
  const TrainConfig saved = begun(first);
  EXPECT_NE(refusal(first).find("holds a run of 3 steps; go on with it by checkpoint.load="),
            std::string::npos)
      << refusal(first);
  TrainConfig into = begun(lora("other"));
  into.checkpoint.save = saved.checkpoint.save;
  EXPECT_NE(refusal(into).find("holds another run"), std::string::npos) << refusal(into);
  TrainConfig back = saved;
  back.checkpoint.load = saved.checkpoint.save + "/iter_0000003";
  EXPECT_EQ(refusal(back), kNone);
  Trainer(saved).run();
  EXPECT_NE(refusal(back).find("holds steps up to 6"), std::string::npos) << refusal(back);
  back.checkpoint.save += "-new";
  EXPECT_EQ(refusal(back), kNone);
}

TEST_F(Resume, AutoGoesOnOrBegins) {
  TrainConfig automatic = lora("run");
  automatic.checkpoint.load = "auto";
  const std::vector<double> whole = losses(automatic);
  EXPECT_EQ(whole.size(), 6u);
  EXPECT_EQ(losses(automatic).size(), 0u);  // all is done
  automatic.checkpoint.save += "-again";
  // Steps without a checkpoint are made again.
  fs::create_directories(automatic.checkpoint.save);
  write_text(automatic.checkpoint.save + "/resolved_config.yaml", "");
  write_text(automatic.checkpoint.save + "/metrics.jsonl", "{\"step\": 1}\n");
  automatic.train.exit_interval = 3;
  std::vector<double> parts = losses(automatic);
  automatic.train.exit_interval.reset();
  for (const double loss : losses(automatic)) parts.push_back(loss);
  EXPECT_EQ(parts, whole);
}

TEST_F(Resume, SavingOverTheBaseIsRefused) {
  const fs::path base = directory_ / "base";
  fs::copy("fixtures/hf", base, fs::copy_options::recursive);
  fs::create_directory_symlink(base, directory_ / "link");
  for (const std::string load : {"", "auto"}) {
    for (const fs::path& save :
         {base, base / "", directory_ / "link", directory_, base / ".." / "base"}) {
      TrainConfig config = lora("run");
      config.checkpoint.pretrained_checkpoint = base.string();
      config.checkpoint.save = save.string();
      config.checkpoint.load = load;
      EXPECT_NE(refusal(config).find("is where checkpoint.pretrained_checkpoint="),
                std::string::npos)
          << save << refusal(config);
    }
  }
  TrainConfig beside = lora("run");
  beside.checkpoint.pretrained_checkpoint = base.string();
  beside.checkpoint.save = base.string() + "-run";
  EXPECT_EQ(refusal(beside), kNone);
}

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

TEST(Settle, WhatCanHaveNoEffectIsRefused) {
  using Keys = std::vector<Assignment>;
  const auto said = [](const Keys& keys) {
    return error_of([&] {
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
      {{{"logger.wandb_entity", "me"}}, "Weights & Biases is off"},
      {{{"peft.scheme", "lora"}, {"model.freeze_vision_model", "true"}}, "freeze the whole base"},
      {{{"peft.scheme", "lora"},
        {"peft.lora_A_init_method", "pissa"},
        {"peft.lora_B_init_method", "normal"}},
       "settles both"},
      {{{"dataset.shuffle", "false"}, {"rng.seed", "3"}}, "nothing is drawn"}};
  for (const auto& [keys, why] : dead) {
    EXPECT_NE(said(keys).find(" has no effect: "), std::string::npos) << said(keys);
    EXPECT_NE(said(keys).find(why), std::string::npos) << said(keys);
  }
  for (const Keys& keys :
       std::vector<Keys>{{{"peft.scheme", "lora"}, {"peft.dim", "8"}},
                         {{"train.on_nan", "skip"}, {"train.max_steps_on_nan", "3"}},
                         {{"validation.answers", "3"}, {"validation.max_new_tokens", "3"}},
                         {{"peft.scheme", "lora"}, {"dataset.feature_cache_mb", "3"}},
                         {{"peft.dim", std::nullopt}}}) {
    EXPECT_EQ(said(keys), kNone);
  }
  // A file may be a whole resolved config.
  const auto file =
      flatten_yaml(load_yaml(to_yaml(recipe("ministral3_3b_sft_config")), "file"), "");
  EXPECT_EQ(error_of([&] { refuse_without_effect(settle("ministral3_3b_sft_config", file, {})); }),
            kNone);
  EXPECT_NE(error_of([&] {
              refuse_without_effect(settle("ministral3_3b_sft_config", {{"peft.dim", "8"}}, {}));
            }).find("peft.dim=8 has no effect"),
            std::string::npos);
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

TEST(Settle, EveryNumberHasItsRange) {
  int64_t numbers = 0;
  for (const FieldText& field : list_fields(TrainConfig{})) {
    if (!field.allowed.starts_with("must be at least") &&
        !field.allowed.starts_with("must be above") &&
        !field.allowed.starts_with("must be one of 4")) {
      continue;
    }
    ++numbers;
    for (const char* value : {"nan", "inf", "-inf", "-1", "1e17", "99999999999999999"}) {
      const std::string said = error_of([&] { settle("demo_config", {}, {{field.path, value}}); });
      EXPECT_TRUE(said.starts_with(field.path + "=") && said.ends_with(field.allowed))
          << field.path << "=" << value << ": " << said;
    }
  }
  EXPECT_EQ(numbers, 37);
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
    return error_of([&] { settle("ministral3_3b_sft_config", {}, keys).config.validate_values(); });
  };
  EXPECT_EQ(said({{"train.train_iters", "10"}}),
            "scheduler.lr_warmup_iters=10 is not below train.train_iters=10; lower it, or make the "
            "run longer");
  EXPECT_EQ(said({{"train.train_iters", "11"}}), kNone);
  EXPECT_EQ(said({{"train.train_iters", "10"}, {"scheduler.lr_decay_iters", "11"}}), kNone);
  EXPECT_EQ(said({{"scheduler.lr_warmup_init", "1e-5"}}),
            "scheduler.lr_warmup_init=1e-05 is above optimizer.lr=5e-06");
  EXPECT_EQ(said({{"optimizer.min_lr", "1e-5"}}),
            "optimizer.min_lr=1e-05 is above optimizer.lr=5e-06");
}

}  // namespace
}  // namespace trestle
