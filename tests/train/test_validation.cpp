// Validation in the loop: its loss, that training does not feel it, the best checkpoint.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <map>

#include "base/file.h"
#include "errors.h"
#include "model/ministral3.h"
#include "recipes/recipes.h"
#include "temp_dir.h"
#include "train/trainer.h"
#include "train/validation.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_mentions;

constexpr const char *kModel = "../assets/demo/model", *kData = "../assets/demo/data";

class Validated : public testing::InDirectory<> {
 protected:
  // Two steps on receipts, validated on the test split.
  TrainConfig config(const std::string& name) const {
    TrainConfig config = recipe("ministral3_3b_peft_config");
    config.model.params_dtype = "float32";
    config.checkpoint.pretrained_checkpoint = kModel;
    config.checkpoint.save = (directory_ / name).string();
    config.dataset.path_or_dataset = kData;
    config.train.train_iters = 4;
    config.train.global_batch_size = 2;
    config.train.micro_batch_size = 2;
    config.peft.dim = 4;
    config.peft.dropout = 0.1;
    config.optimizer.lr = 1e-3;
    config.scheduler.lr_warmup_iters = 0;
    config.validation.split = "test";
    config.validation.eval_interval = 2;
    config.validation.eval_iters = 2;
    return config;
  }

  // Of a config with one set.
  static std::unique_ptr<Validation> only(const TrainConfig& config, const Processor& processor) {
    auto all = Validation::make_all(config, processor);
    EXPECT_LE(all.size(), 1u);
    return all.empty() ? nullptr : std::move(all.front());
  }

  struct Lines {
    std::vector<Json> steps, validations;
  };
  static Lines run(const TrainConfig& config) {
    Trainer(config).run();
    Lines lines;
    std::ifstream log(fs::path(config.checkpoint.save) / "metrics.jsonl");
    for (std::string line; std::getline(log, line);) {
      Json parsed = Json::parse(line);
      (parsed.contains("valid_seconds") ? lines.validations : lines.steps)
          .push_back(std::move(parsed));
    }
    return lines;
  }
  // Stopped behind step 4 and gone on with, in a directory beside that of the whole.
  static Lines run_in_parts(TrainConfig config) {
    config.checkpoint.save += "-parts";
    config.train.exit_interval = 4;
    run(config);
    config.train.exit_interval.reset();
    config.checkpoint.load = config.checkpoint.save;
    return run(config);
  }
  static std::vector<double> losses(const std::vector<Json>& lines, const char* key) {
    std::vector<double> losses;
    for (const Json& line : lines) losses.push_back(line.at(key).get<double>());
    return losses;
  }
};

TEST_F(Validated, RowsThatAreNotThereAreToldOfWhereTheyWereAskedFor) {
  TrainConfig config = this->config("rows");
  const Processor processor(kModel);
  const int64_t rows =
      make_dataset("make_cord_v2_dataset", {.path = kData, .split = "test"})->size();
  const auto told = [&](int64_t answers, int64_t iters, const std::set<std::string>& asked) {
    config.validation.answers = answers;
    config.validation.eval_iters = iters;
    ::testing::internal::CaptureStderr();
    Validation::make_all(config, processor, asked);
    return ::testing::internal::GetCapturedStderr();
  };
  const std::set<std::string> both = {"validation.answers", "validation.eval_iters"};
  const int64_t batches = (rows + 1) / 2;  // of 2 rows
  const std::string said = told(rows + 1, batches + 1, both);
  expect_mentions(said, {fmt::format("validation.answers={}: ", rows + 1),
                         fmt::format("has {} rows, all of which are answered", rows),
                         fmt::format("validation.eval_iters={}: ", batches + 1),
                         fmt::format("{} rows, which are {} global batches of 2", rows, batches)});
  const std::string usual = told(rows, batches, both);
  EXPECT_EQ(told(rows + 1, batches + 1, {}), usual);
  EXPECT_EQ(usual.find("validation.answers"), std::string::npos);
}

TEST_F(Validated, TheLossIsThatOfTheFirstRows) {
  const TrainConfig config = this->config("loss");
  Trainer trainer(config);
  const Processor processor(kModel);
  const auto validation = only(config, processor);
  ASSERT_NE(validation, nullptr);
  {
    // An adapter that says something: behind a B of zeros no dropout shows.
    const at::NoGradGuard no_grad;
    for (const auto& entry : trainer.model().named_parameters()) {
      at::Tensor parameter = entry.value();
      if (entry.key().ends_with("linear_out.weight")) parameter.normal_(0, 0.1);
    }
  }
  Pipeline pipeline(trainer.model(), Grid());
  const ValidationMetrics metrics = validation->run(trainer.model(), pipeline, nullptr, 7, Grid());
  EXPECT_EQ(metrics.step, 7);
  EXPECT_GT(metrics.seconds, 0);
  EXPECT_TRUE(trainer.model().is_training());

  const at::NoGradGuard no_grad;
  trainer.model().eval();  // dropout is off in a validation
  const auto dataset = make_dataset("make_cord_v2_dataset", kData, "test");
  double sum = 0;
  int64_t targets = 0;
  for (int64_t row = 0; row < 4; ++row) {
    const Batch batch = collate({processor.process(dataset->row(row), Ending::kSample)});
    const auto [loss, count] = trainer.model().loss_sum(batch.input, batch.labels_T);
    sum += loss.item<double>();
    targets += count;
  }
  EXPECT_NEAR(metrics.loss, sum / static_cast<double>(targets), 1e-5);
}

TEST_F(Validated, TrainingDoesNotFeelIt) {
  TrainConfig without = config("without");
  without.validation.eval_interval = 0;
  TrainConfig with = config("with");
  with.validation.answers = 2;
  with.validation.max_new_tokens = 8;
  const Lines plain = run(without), validated = run(with);
  EXPECT_EQ(losses(validated.steps, "loss"), losses(plain.steps, "loss"));
  EXPECT_TRUE(plain.validations.empty());
  ASSERT_EQ(validated.validations.size(), 2u);
  EXPECT_EQ(validated.validations[0]["step"], 2);
  EXPECT_EQ(validated.validations[1]["step"], 4);
  for (const char* name : {"valid_exact_match", "valid_anls", "valid_field_f1",
                           "valid_tree_edit_accuracy", "valid_seconds"}) {
    EXPECT_TRUE(validated.validations[0].contains(name)) << name;
  }
  const std::string report = read_text(fs::path(with.checkpoint.save) / "report.html", 1 << 24);
  EXPECT_NE(report.find("[1 picture] Describe this image."), std::string::npos);
}

TEST_F(Validated, TheLastStepIsValidatedToo) {
  TrainConfig odd = config("odd");
  odd.train.train_iters = 3;
  const Lines lines = run(odd);
  ASSERT_EQ(lines.validations.size(), 2u);
  EXPECT_EQ(lines.validations[1]["step"], 3);
}

TEST_F(Validated, TheBestCheckpointIsKept) {
  TrainConfig best = config("best");
  best.validation.best_metric = kValidLoss;
  best.checkpoint.save_interval = 100;
  best.train.train_iters = 6;
  const Lines lines = run(best);
  const std::vector<double> values = losses(lines.validations, kValidLoss);
  ASSERT_EQ(values.size(), 3u);
  const auto least = std::ranges::min_element(values) - values.begin();
  const Json found = read_json(fs::path(best.checkpoint.save) / "best.json");
  EXPECT_EQ(found["step"], 2 * (least + 1));
  EXPECT_EQ(found["value"], values[static_cast<size_t>(least)]);
  EXPECT_EQ(found["metric"], kValidLoss);
  EXPECT_TRUE(fs::exists(fs::path(best.checkpoint.save) / found["checkpoint"].get<std::string>()));
}

// users' pain point 24: resuming.
TEST_F(Validated, AResumedRunKnowsTheBest) {
  TrainConfig whole = config("whole");
  whole.validation.best_metric = kValidLoss;
  whole.train.train_iters = 8;
  const auto wanted = run(whole);
  const auto got = run_in_parts(whole);
  EXPECT_EQ(losses(got.steps, "loss"), losses(wanted.steps, "loss"));
  EXPECT_EQ(losses(got.validations, kValidLoss), losses(wanted.validations, kValidLoss));
  EXPECT_EQ(read_json(fs::path(whole.checkpoint.save + "-parts") / "best.json"),
            read_json(fs::path(whole.checkpoint.save) / "best.json"));
}

TEST_F(Validated, ABestStepIsBeatenByABetterOneOfItsMetric) {
  TrainConfig config = this->config("better");
  config.validation.best_metric = "field_f1";
  config.validation.answers = 1;
  const Processor processor(kModel);
  const auto validation = only(config, processor);
  ValidationMetrics metrics;
  metrics.step = 4;
  metrics.loss = 1;
  metrics.scores["field_f1"] = 0.5;
  EXPECT_TRUE(validation->better(metrics, std::nullopt));
  const std::string& here = validation->measured_on();
  EXPECT_TRUE(validation->better(metrics, BestStep{2, "field_f1", 0.4, here}));
  EXPECT_TRUE(validation->better(metrics, BestStep{2, kValidLoss, 0.1, here}));
  EXPECT_FALSE(validation->better(metrics, BestStep{2, "field_f1", 0.5, here}));
  EXPECT_TRUE(validation->better(metrics, BestStep{2, "field_f1", 0.9, "other rows"}));
  metrics.scores["field_f1"] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(validation->better(metrics, std::nullopt));
}

// What the number means, for either metric: each of these makes it another.
TEST_F(Validated, ABestIsOfWhatItWasMeasuredOn) {
  const Processor processor(kModel);
  const auto measured = [&](const std::string& metric, const std::string& override) {
    TrainConfig config = this->config("measured");
    config.validation.best_metric = metric;
    config.validation.answers = 2;
    if (!override.empty()) apply_override(config, override);
    return only(config, processor)->measured_on();
  };
  const fs::path other = directory_ / "other";
  fs::create_directories(other);
  fs::copy_file(fs::path(kData) / "train.parquet", other / "test.parquet");
  fs::copy_file(fs::path(kData) / "test.parquet", directory_ / "test.parquet");
  const std::string elsewhere = "validation.path_or_dataset=" + other.string();
  const std::string moved = "validation.path_or_dataset=" + directory_.string() + "/test.parquet";
  for (const auto& [metric, own, others] :
       {std::tuple{kValidLoss,
                   std::vector{"validation.eval_iters=1", "train.global_batch_size=3",
                               "model.seq_length=400", "dataset.overlong=drop"},
                   std::vector{"validation.answers=1", "validation.max_new_tokens=7"}},
        std::tuple{"field_f1", std::vector{"validation.answers=1", "validation.max_new_tokens=7"},
                   std::vector{"validation.eval_iters=1", "model.seq_length=400"}}}) {
    const std::string plain = measured(metric, "");
    EXPECT_FALSE(plain.empty());
    for (const char* each : own) EXPECT_NE(measured(metric, each), plain) << each;
    for (const char* each : others) EXPECT_EQ(measured(metric, each), plain) << each;
    for (const char* each : {"validation.split=train", "dataset.image_max_edge=56",
                             "dataset.image_max_tokens=20", elsewhere.c_str()}) {
      EXPECT_NE(measured(metric, each), plain) << each;
    }
    for (const char* each : {"train.train_iters=9", "optimizer.lr=1e-4", moved.c_str()}) {
      EXPECT_EQ(measured(metric, each), plain) << each;
    }
  }
  EXPECT_EQ(measured("", ""), "");
}

TEST_F(Validated, ABestOfOtherRowsIsNotComparedWith) {
  TrainConfig first = config("other-rows");
  first.validation.best_metric = kValidLoss;
  first.train.exit_interval = 2;
  run(first);
  TrainConfig second = first;
  second.train.exit_interval.reset();
  second.checkpoint.load = first.checkpoint.save;
  {
    const Trainer same(second);
    ASSERT_TRUE(same.progress().best);
    EXPECT_EQ(same.progress().best->step, 2);
  }
  second.validation.eval_iters = 1;
  ::testing::internal::CaptureStderr();
  const Trainer trainer(second);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_FALSE(trainer.progress().best);
  expect_mentions(said, {"the best so far, valid_loss ", " of step 2, was measured on 4 rows of ",
                         "measures valid_loss on 2 rows of ", "its best starts anew\n"});
}

TEST_F(Validated, ABestOfAnOlderCheckpointIsNotComparedWith) {
  TrainConfig config = this->config("older");
  config.validation.best_metric = kValidLoss;
  const auto validation = only(config, Processor(kModel));
  const BestStep here{2, kValidLoss, 0.5, validation->measured_on()};
  EXPECT_TRUE(validation->comparable(here));
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(validation->comparable(BestStep{2, kValidLoss, 0.5, ""}));
  expect_mentions(
      ::testing::internal::GetCapturedStderr(),
      {"valid_loss 0.5000 of step 2, was measured on data that the checkpoint does not"});
  // Without a metric there is no number to come, and the best stays what it was.
  config.validation.best_metric = "";
  EXPECT_TRUE(only(config, Processor(kModel))->comparable(here));
}

// Each as if it were the only one, and the best by one of them.
TEST_F(Validated, SeveralSetsByName) {
  TrainConfig both = config("both");
  apply_override(both, fmt::format("validation.sets=[{{name: seen, path: {0}, split: train}}, "
                                   "{{name: new, path: {0}}}]",
                                   kData));
  both.validation.best_metric = "field_f1-new";
  both.validation.answers = 2;
  both.validation.max_new_tokens = 8;
  const Lines lines = run(both);
  ASSERT_EQ(lines.validations.size(), 4u);
  std::map<std::string, std::vector<double>> found;
  for (const Json& line : lines.validations) {
    for (const auto& [key, value] : line.items()) {
      if (value.is_number() && key != "valid_seconds") found[key].push_back(value.get<double>());
    }
  }
  EXPECT_EQ(found.at("step"), (std::vector<double>{2, 2, 4, 4}));
  for (const auto& [name, split] : {std::pair("seen", "train"), std::pair("new", "test")}) {
    TrainConfig alone = config(name);
    alone.validation.path_or_dataset = kData;
    alone.validation.split = split;
    alone.validation.answers = 2;
    alone.validation.max_new_tokens = 8;
    const Lines its = run(alone);
    for (const char* key : {"valid_loss", "valid_field_f1", "valid_anls"}) {
      EXPECT_EQ(found.at(fmt::format("{}-{}", key, name)), losses(its.validations, key)) << key;
    }
    EXPECT_EQ(losses(its.steps, "loss"), losses(lines.steps, "loss"));
  }
  const Json best = read_json(fs::path(both.checkpoint.save) / "best.json");
  EXPECT_EQ(best["metric"], "field_f1-new");
  EXPECT_EQ(best["value"], std::ranges::max(found.at("valid_field_f1-new")));
  const std::string report = read_text(fs::path(both.checkpoint.save) / "report.html", 1 << 24);
  for (const char* part : {"behind step 4 on seen", "behind step 4 on new", "loss-seen"}) {
    EXPECT_NE(report.find(part), std::string::npos) << part;
  }
}

TEST_F(Validated, AResumedRunKnowsTheBestOfASet) {
  TrainConfig whole = config("sets");
  apply_override(whole, fmt::format("validation.sets=[{{name: seen, path: {0}, split: train}}, "
                                    "{{name: new, path: {0}}}]",
                                    kData));
  whole.validation.best_metric = "valid_loss-new";
  whole.train.train_iters = 8;
  const auto wanted = run(whole);
  const auto got = run_in_parts(whole);
  EXPECT_EQ(losses(got.steps, "loss"), losses(wanted.steps, "loss"));
  ASSERT_EQ(got.validations.size(), wanted.validations.size());
  for (size_t i = 0; i < got.validations.size(); ++i) {
    const char* key = i % 2 == 0 ? "valid_loss-seen" : "valid_loss-new";
    EXPECT_EQ(got.validations[i].at(key), wanted.validations[i].at(key));
  }
  EXPECT_EQ(read_json(fs::path(whole.checkpoint.save + "-parts") / "best.json"),
            read_json(fs::path(whole.checkpoint.save) / "best.json"));
}

TEST_F(Validated, WhatCannotBeIsSaidBeforeTheFirstStep) {
  TrainConfig config = this->config("errors");
  config.validation.best_metric = "field_f2";
  EXPECT_REFUSED(config.validate(), "did you mean field_f1?");
  config.validation.best_metric = "field_f1";
  EXPECT_REFUSED(config.validate(), "validation.answers=0");
  config.validation.answers = 2;
  config.validation.best_metric = "choice_accuracy";
  EXPECT_REFUSED(const Trainer trainer(config), "does not apply");
  config.validation.best_metric = "";
  config.validation.split = "nowhere";
  EXPECT_EQ(only(config, Processor(kModel)), nullptr);
  config.validation.path_or_dataset = kData;
  EXPECT_REFUSED(const Trainer trainer(config), "split 'nowhere'");
}

TEST(OlderNames, AreThoseOfTheBridge) {
  TrainConfig config;
  apply_override(config, "train.eval_interval=7");
  apply_yaml(config, "train:\n  eval_iters: 3\n", "file");
  EXPECT_EQ(config.validation.eval_interval, 7);
  EXPECT_EQ(config.validation.eval_iters, 3);
}

}  // namespace
}  // namespace trestle
