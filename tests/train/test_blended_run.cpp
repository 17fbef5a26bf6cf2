// Runs on several data sets by weight: exact on resume, and of these sets and weights alone.
#include <gtest/gtest.h>

#include "errors.h"
#include "train/testing.h"
#include "train/training_data.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class BlendedRun : public testing::RunTest {
 protected:
  TrainConfig blended(const std::string& name, double weight = 0.75,
                      const std::string& second = "second.jsonl") const {
    if (!fs::exists(directory_ / second)) {
      std::ofstream(directory_ / second)
          << R"({"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "bb"}]})"
          << "\n"
          << R"({"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "cc"}]})"
          << "\n";
    }
    TrainConfig config = this->config(name, "lora");
    config.model.params_dtype = "float32";
    config.dataset.path_or_dataset = "";
    apply_override(
        config,
        fmt::format("dataset.blend=[{{path: {}, weight: {}}}, {{path: {}, weight: 1}}]",
                    (directory_ / "data.jsonl").string(), weight, (directory_ / second).string()));
    return config;
  }
  static std::string refusal(TrainConfig config, const TrainConfig& saved) {
    config.checkpoint.load = saved.checkpoint.save;
    return testing::error_of([&] { const Trainer trainer(config); });
  }
};

TEST_F(BlendedRun, ResumesToTheBit) { expect_exact_resume(blended("blend")); }

TEST_F(BlendedRun, LearnsFromBothAndSaysHowMuch) {
  const TrainConfig config = blended("both");
  const Trainer trainer(config);
  const auto said = describe_training_data(config, trainer.dataset());
  ASSERT_EQ(said.size(), 2u);
  testing::expect_mentions(said[0], {"0.4286 of ", "data.jsonl (7 rows; 10 of 24 samples"});
  testing::expect_mentions(said[1], {"second.jsonl (2 rows; 14 of 24 samples, 7 passes)"});
  EXPECT_EQ(row_names(trainer.dataset(), {1, 8}),
            fmt::format("row 1 of {}, row 1 of {}", (directory_ / "data.jsonl").string(),
                        (directory_ / "second.jsonl").string()));
  EXPECT_NE(losses(blended("other", 3)), losses(config));
}

TEST_F(BlendedRun, GoesOnWithTheSameSetsAndWeightsAlone) {
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 3;
  run(saved);
  testing::expect_mentions(refusal(blended("a", 0.5), saved), {"dataset.blend", "there: "});
  TrainConfig one = config("b", "lora");
  one.model.params_dtype = "float32";
  testing::expect_mentions(refusal(one, saved), {"dataset.blend=[]", "dataset.path_or_dataset"});
  std::ofstream(directory_ / "third.jsonl")
      << R"({"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "d"}]})"
      << "\n";
  testing::expect_mentions(refusal(blended("c", 0.75, "third.jsonl"), saved), {"dataset.blend"});
  // The same rows may lie elsewhere.
  fs::create_directory(directory_ / "moved");
  fs::copy_file(directory_ / "second.jsonl", directory_ / "moved" / "second.jsonl");
  TrainConfig moved = blended("d", 0.75, "moved/second.jsonl");
  moved.checkpoint.load = saved.checkpoint.save;
  EXPECT_EQ(run(moved).size(), 3u);
}

// 0.75 and 1 are 3 and 4: of the same blend the weights that it began with stay.
TEST_F(BlendedRun, WeightsAreSharesOfTheirSum) {
  const std::vector<double> whole = losses(blended("whole"));
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 2;
  run(saved);
  const auto times = [&](TrainConfig config, double factor) {
    for (BlendSource& each : config.dataset.blend) each.weight = *each.weight * factor;
    config.checkpoint.load = saved.checkpoint.save;
    config.checkpoint.save = saved.checkpoint.save;
    return config;
  };
  TrainConfig next = times(blended("saved"), 4);
  next.train.exit_interval = 2;
  const std::vector<double> second = losses(next);
  const std::vector<double> third = losses(times(blended("saved"), 0.1));
  ASSERT_EQ(second.size(), 2u);
  ASSERT_EQ(third.size(), 2u);
  EXPECT_EQ(second, (std::vector<double>{whole[2], whole[3]}));
  EXPECT_EQ(third, (std::vector<double>{whole[4], whole[5]}));
}

TEST_F(BlendedRun, OtherWeightsGoOnBehindTheRowsThatWereTaken) {
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 2;
  run(saved);
  TrainConfig other = blended("saved", 3);
  other.checkpoint.load = saved.checkpoint.save;
  other.train.exit_interval = 4;
  const Asked asked{.keys = {}, .may_change = {"dataset.blend"}};
  ::testing::internal::CaptureStderr();
  Trainer trainer(other, asked);
  testing::expect_mentions(
      ::testing::internal::GetCapturedStderr(),
      {"dataset.blend: from sample 8 on its sets weigh 0.75, 0.25 of all (there: 0.4286, 0.5714); "
       "each goes on behind what it gave, 4, 4 samples"});
  EXPECT_EQ(trainer.progress().blend_start.taken, (std::vector<int64_t>{4, 4}));
  const auto said =
      describe_training_data(other, trainer.dataset(), trainer.progress().blend_start);
  // 4 + 12 and 4 + 4 of them; 0.75 of all would be 18 and 6.
  testing::expect_mentions(said[0], {"0.75 of ", "16 of 24 samples"});
  testing::expect_mentions(said[1], {"0.25 of ", "8 of 24 samples"});
  std::vector<double> parts;
  trainer.run([&](const StepMetrics& metrics) { parts.push_back(metrics.loss); });
  // What changed once is kept: the rest is that of a run that is not stopped again.
  TrainConfig rest = other;
  rest.train.exit_interval.reset();
  for (const double loss : losses(rest)) parts.push_back(loss);
  TrainConfig unbroken = other;
  unbroken.train.exit_interval.reset();
  unbroken.checkpoint.save = (directory_ / "unbroken").string();
  unbroken.checkpoint.ckpt_step = 2;
  std::vector<double> whole;
  Trainer(unbroken, asked).run([&](const StepMetrics& metrics) { whole.push_back(metrics.loss); });
  EXPECT_EQ(parts, whole);
}

TEST_F(BlendedRun, OtherSetsAndOrdersAreTold) {
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 2;
  run(saved);
  const auto told = [&](TrainConfig config, const std::set<std::string>& may_change) {
    config.checkpoint.load = saved.checkpoint.save;
    ::testing::internal::CaptureStderr();
    const Trainer trainer(config, {.keys = {}, .may_change = may_change});
    const auto said =
        describe_training_data(config, trainer.dataset(), trainer.progress().blend_start);
    return ::testing::internal::GetCapturedStderr() + said.front();
  };
  std::ofstream(directory_ / "third.jsonl")
      << R"({"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "d"}]})"
      << "\n";
  testing::expect_mentions(
      told(blended("a", 1, "third.jsonl"), {"dataset.blend"}),
      {"dataset.blend: other sets than the run was saved with: from sample 8 on",
       "8 of 16 samples"});
  TrainConfig one = config("b", "lora");
  one.model.params_dtype = "float32";
  testing::expect_mentions(told(one, {"dataset.blend", "dataset.path_or_dataset"}),
                           {"dataset.path_or_dataset: other data than the run was saved with"});
  TrainConfig seed = blended("c");
  seed.rng.seed = 7;
  testing::expect_mentions(
      told(seed, {"rng.seed"}),
      {"rng.seed=7 (there: 1234): from sample 8 on rows come in another order"});
  const std::string same = told(blended("d"), {});
  EXPECT_EQ(same.find("from sample"), std::string::npos) << same;
}

TEST_F(BlendedRun, IsNotValidatedUnlessDataAreNamed) {
  TrainConfig config = blended("valid");
  config.validation.eval_interval = 2;
  ::testing::internal::CaptureStderr();
  { const Trainer trainer(config); }
  testing::expect_mentions(::testing::internal::GetCapturedStderr(),
                           {"no validation: no set of dataset.blend is measured by itself"});
  config.validation.eval_interval = 2;
  EXPECT_REFUSED(const Trainer trainer(config, {.keys = {"validation.eval_interval"}}),
                 "validation.eval_interval has no effect: dataset.blend has no validation split");
  apply_override(config, fmt::format("validation.sets=[{{name: x, path: {}}}]",
                                     (directory_ / "data.jsonl").string()));
  ::testing::internal::CaptureStderr();
  { const Trainer trainer(config, {.keys = {"validation.eval_interval"}}); }
  testing::expect_mentions(::testing::internal::GetCapturedStderr(), {"validation data x: "});
}

// A run directory is no place for what is read.
TEST_F(BlendedRun, SetsDoNotLieAmongARunsFiles) {
  TrainConfig config = blended("place");
  apply_override(
      config, fmt::format("dataset.blend=[{{path: {}/place/metrics.jsonl}}]", directory_.string()));
  EXPECT_REFUSED(const Trainer trainer(config), "dataset.blend");
}

}  // namespace
}  // namespace trestle
