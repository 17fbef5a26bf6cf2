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
