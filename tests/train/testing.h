// Short runs on fixtures/hf. Included by the tests of the trainer.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "recipes/recipes.h"
#include "temp_dir.h"
#include "train/trainer.h"

namespace trestle::testing {

namespace fs = std::filesystem;

/// Three rows, each with a picture of its own.
inline void write_picture_rows(std::ostream& out) {
  for (const char* name : {"rgb8.png", "29x29.png", "420.jpg"}) {
    out << fmt::format(
               R"({{"messages": [{{"role": "user", "content": [{{"type": "image", "path": "{}"}}, )"
               R"({{"type": "text", "text": "name it"}}]}}, {{"role": "assistant", "content": "{}"}}]}})",
               std::filesystem::absolute(std::filesystem::path("image/golden") / name).string(),
               name)
        << "\n";
  }
}

/// Texts and pictures of very unlike sizes: two pictures, one, none.
inline std::string rows_of_all_kinds() {
  std::string rows;
  const auto picture = [](const char* name) {
    return fmt::format(
        R"({{"type": "image", "path": "{}"}}, )",
        std::filesystem::absolute(std::filesystem::path("image/golden") / name).string());
  };
  const std::vector<std::string> pictures = {picture("rgb8.png") + picture("29x29.png"), "",
                                             picture("420.jpg"), ""};
  for (size_t i = 0; i < 12; ++i) {
    rows += fmt::format(
        R"({{"messages": [{{"role": "user", "content": [{}{{"type": "text", "text": "{}"}}]}}, )"
        R"({{"role": "assistant", "content": "{}"}}]}})",
        pictures[i % pictures.size()], std::string(1 + i * i % 90, 'q'),
        std::string(1 + 7 * i % 40, 'a'));
    rows += "\n";
  }
  return rows;
}

/// A directory with seven rows of own text data, and runs on the fixture model.
class RunTest : public InDirectory<> {
 protected:
  void SetUp() override {
    std::ofstream data(directory_ / "data.jsonl");
    for (int i = 0; i < 7; ++i) {
      data << R"({"messages": [{"role": "user", "content": "count )" << i
           << R"("}, {"role": "assistant", "content": ")"
           << std::string(static_cast<size_t>(3 + i), 'a') << "\"}]}\n";
    }
  }

  // Of the weights, or of adapters of a scheme.
  TrainConfig config(const std::string& name, const std::string& scheme = "") const {
    TrainConfig config = recipe("ministral3_3b_sft_config");
    if (const char* device = std::getenv("TRESTLE_TEST_DEVICE")) config.train.device = device;
    config.checkpoint.pretrained_checkpoint = "fixtures/hf";
    config.checkpoint.save = (directory_ / name).string();
    config.checkpoint.save_interval = 3;
    config.dataset.maker_name = "jsonl";
    config.dataset.path_or_dataset = (directory_ / "data.jsonl").string();
    config.train.train_iters = 6;
    config.train.global_batch_size = 4;
    config.train.micro_batch_size = 2;
    config.optimizer.lr = 1e-3;
    config.scheduler.lr_warmup_iters = 2;
    config.peft.scheme = scheme;
    if (!scheme.empty()) config.peft.dim = 4;
    return config;
  }

  static std::vector<StepMetrics> run(const TrainConfig& config) {
    std::vector<StepMetrics> steps;
    Trainer(config).run([&](const StepMetrics& metrics) { steps.push_back(metrics); });
    return steps;
  }
  static std::vector<double> losses(const TrainConfig& config) {
    std::vector<double> losses;
    for (const StepMetrics& step : run(config)) losses.push_back(step.loss);
    return losses;
  }

  // Six steps at once, and three, a stop, and three: the same losses to the bit.
  void expect_exact_resume(TrainConfig config) {
    const std::vector<double> whole = losses(config);
    config.checkpoint.save += "-resumed";
    config.train.exit_interval = 3;
    std::vector<double> parts = losses(config);
    ASSERT_EQ(parts.size(), 3u);
    config.train.exit_interval.reset();
    config.checkpoint.load = config.checkpoint.save;
    const std::vector<double> rest = losses(config);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_EQ(parts, whole);
    std::ifstream log(fs::path(config.checkpoint.save) / "metrics.jsonl");
    int64_t lines = 0;
    for (std::string line; std::getline(log, line);) EXPECT_EQ(Json::parse(line)["step"], ++lines);
    EXPECT_EQ(lines, 6);
  }
};

/// Runs on the demo's model and rows_of_all_kinds(), in float32.
class RunOfAllKinds : public RunTest {
 protected:
  static constexpr const char* kModel = "../assets/demo/model";

  void SetUp() override {
    RunTest::SetUp();
    std::ofstream(directory_ / "data.jsonl") << rows_of_all_kinds();
  }

  TrainConfig config(const std::string& name, const std::string& scheme = "") const {
    TrainConfig config = RunTest::config(name, scheme);
    config.model.params_dtype = "float32";
    config.model.seq_length = 256;
    config.checkpoint.pretrained_checkpoint = kModel;
    config.train.micro_batch_size = 1;
    return config;
  }
};

}  // namespace trestle::testing
