// progress.txt of several ranks, of saves beside the steps, and the scalars that speak of ranks.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "base/file.h"
#include "metrics/progress_log.h"
#include "metrics/scalars.h"
#include "temp_dir.h"

namespace trestle {
namespace {

class Progress : public ::testing::Test {
 protected:
  std::string last_line() const {
    const std::string text = read_text(folder_ / "progress.txt");
    return text.substr(text.rfind('\n', text.size() - 2) + 1);
  }
  // The number behind `name` in the last line.
  double told(const std::string& name) const {
    const std::string line = last_line();
    const size_t at = line.find(name);
    return at == line.npos ? std::nan("") : std::stod(line.substr(at + name.size()));
  }
  // A session of `ranks` that began 1000 seconds ago.
  void write_session(int64_t ranks, const std::string& more = "") const {
    const std::time_t begun = std::time(nullptr) - 1000;
    char text[32] = {};
    std::tm parts{};
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", localtime_r(&begun, &parts));
    const std::string old =
        is_there(folder_ / "progress.txt") ? read_text(folder_ / "progress.txt") : "";
    write_text(folder_ / "progress.txt",
               old + fmt::format("{}\tJob ID: \t# GPUs: {}\tStarting job\n{}", text, ranks, more));
  }

  const testing::TempDir folder_;
};

TEST_F(Progress, ALineIsOfTheStepThatWasSaved) {
  ProgressLog log(folder_.path(), {}, 1);
  log.taken({.flops = 1e12, .tokens = 1'000'000'000});
  log.saved(1);
  const double rate = told("Job throughput: ");
  log.taken({.flops = 2e15, .tokens = 2'000'000'000});
  // Steps that are made while it is written change nothing.
  log.saved(2);
  EXPECT_EQ(told("Floating-point operations: "), 2e15);
  EXPECT_EQ(told("Tokens (in billions): "), 2);
  EXPECT_GT(told("Job throughput: "), rate);
}

TEST_F(Progress, RatesAreOfARank) {
  write_session(8);
  ProgressLog log(folder_.path(), {.flops = 0}, 8);
  EXPECT_NE(last_line().find("\t# GPUs: 8\tStarting job"), std::string::npos) << last_line();
  log.taken({.flops = 8e18});
  log.saved(5);
  // 8e18 in 1000 s by 8.
  EXPECT_NEAR(told("Cumulative throughput: "), 1000, 5);
  EXPECT_EQ(told("# GPUs: "), 8);
}

// As Megatron begins anew where the number changes: what others did is theirs.
TEST_F(Progress, SessionsOfAnotherNumberAreNotCounted) {
  const std::string saved =
      "2026-01-01 00:00:00\tJob ID: \t# GPUs: 2\tSaved checkpoint\tIteration: 3\tJob throughput: "
      "1.0 "
      "MODEL_TFLOP/s/GPU\tCumulative throughput: 1.0 MODEL_TFLOP/s/GPU\t"
      "Floating-point operations: 6.00e+18\tTokens (in billions): 0.10\n";
  write_session(8);
  write_session(2, saved);
  write_session(8);
  ProgressLog log(folder_.path(), {.flops = 6e18}, 8);
  log.taken({.flops = 14e18});
  log.saved(5);
  EXPECT_NEAR(told("Cumulative throughput: "), 1000, 5);
}

TEST(RankScalars, AreToldWhereTheyAreAskedFor) {
  const StepMetrics step{.step = 1, .ranks = 4, .tokens = 8, .seconds = 2, .flops = 8e12};
  LoggerOptions asked;
  const auto scalars = [&] {
    std::map<std::string, double> values;
    for (const auto& [name, value] : scalars_of(step, asked, 1)) values[name] = value;
    return values;
  };
  EXPECT_FALSE(scalars().contains("world-size"));
  asked.log_world_size_to_tensorboard = true;
  EXPECT_EQ(scalars().at("world-size"), 4);
  EXPECT_TRUE(is_scalar_of_runs("world-size"));
  asked.log_throughput_to_tensorboard = true;
  EXPECT_EQ(scalars().at("throughput/tflops"), 4);
  EXPECT_EQ(scalars().at("throughput/tflops/device"), 1);
}

}  // namespace
}  // namespace trestle
