// Traces of steps: what is in them, and that they change nothing.
#include <gtest/gtest.h>

#include <csignal>

#include "base/json.h"
#include "errors.h"
#include "train/testing.h"

namespace trestle {
namespace {

using testing::expect_mentions;
using testing::refusal_of;

class Profile : public testing::RunTest {
 protected:
  TrainConfig traced(const std::string& name, int64_t start, int64_t end) const {
    TrainConfig asked = config(name, "lora");
    asked.model.params_dtype = "float32";
    asked.profiling.use_pytorch_profiler = true;
    asked.profiling.profile_step_start = start;
    asked.profiling.profile_step_end = end;
    return asked;
  }
  std::filesystem::path trace(const std::string& name) const {
    return directory_ / name / "torch_profile" / "rank-0.json";
  }
};

struct Range {
  double begin = 0, end = 0;
};

// The ranges of all operations of a name, as the trace has them.
std::vector<Range> ranges(const Json& trace, const std::string& name) {
  std::vector<Range> found;
  for (const Json& each : trace.at("traceEvents")) {
    if (each.at("ph") != "X" || each.at("name") != name) continue;
    const double begin = each.at("ts").get<double>();
    found.push_back({begin, begin + each.at("dur").get<double>()});
  }
  return found;
}

TEST_F(Profile, HasTheOperationsOfItsSteps) {
  TrainConfig plain = traced("plain", 3, 5);
  plain.profiling.use_pytorch_profiler = false;
  const std::vector<double> expected = losses(plain);
  EXPECT_FALSE(std::filesystem::exists(trace("plain").parent_path()));
  EXPECT_EQ(losses(traced("traced", 3, 5)), expected);

  const Json read = read_json(trace("traced"));
  std::vector<Range> steps;
  for (int step = 1; step <= 6; ++step) {
    const auto marks = ranges(read, fmt::format("ProfilerStep#{}", step));
    ASSERT_EQ(marks.size(), step == 3 || step == 4 ? 1u : 0u) << step;
    steps.insert(steps.end(), marks.begin(), marks.end());
  }
  // Both micro-batches of both steps: three layers with adapters, forward.
  for (const std::string name : {"aten::linear", "aten::mm"}) {
    const auto found = ranges(read, name);
    EXPECT_GE(found.size(), 2u * 2 * 3 * 4) << name;
    for (const Range& each : found) {
      EXPECT_TRUE(std::ranges::any_of(steps, [&](const Range& step) {
        return step.begin <= each.begin && each.end <= step.end;
      })) << name;
    }
  }
  EXPECT_FALSE(ranges(read, "aten::_fused_adamw_").empty());
  EXPECT_EQ(read_text(trace("traced")).find("Input Dims"), std::string::npos);
}

TEST_F(Profile, HasShapesWhereTheyAreAskedFor) {
  TrainConfig asked = traced("run", 1, 2);
  asked.train.train_iters = 1;
  asked.scheduler.lr_warmup_iters = 0;
  asked.profiling.pytorch_profiler_collect_shapes = true;
  run(asked);
  EXPECT_NE(read_text(trace("run")).find("Input Dims"), std::string::npos);
}

TEST_F(Profile, IsWrittenWhereARunIsStopped) {
  const TrainConfig asked = traced("run", 2, 6);
  Trainer trainer(asked);
  EXPECT_EQ(trainer.run([](const StepMetrics& metrics) {
    if (metrics.step == 3) std::raise(SIGTERM);
  }),
            SIGTERM);
  const Json read = read_json(trace("run"));
  EXPECT_EQ(ranges(read, "ProfilerStep#3").size(), 1u);
  EXPECT_TRUE(ranges(read, "ProfilerStep#4").empty());
  // What is left of the window when the run goes on.
  TrainConfig rest = asked;
  rest.checkpoint.load = rest.checkpoint.save;
  run(rest);
  EXPECT_EQ(ranges(read_json(trace("run")), "ProfilerStep#5").size(), 1u);
}

TEST_F(Profile, IsWrittenWhereARunFails) {
  EXPECT_THROW(Trainer(traced("run", 2, 6)).run([](const StepMetrics& metrics) {
    if (metrics.step == 3) user_error("enough");
  }),
               UserError);
  EXPECT_EQ(ranges(read_json(trace("run")), "ProfilerStep#3").size(), 1u);
}

TEST_F(Profile, StepsThatAreNoneAreRefused) {
  const auto refused = [&](int64_t start, int64_t end) {
    return refusal_of([&] { traced("run", start, end).validate(); });
  };
  expect_mentions(refused(3, 3), {"profiling.profile_step_end=3", "profile_step_start=3"});
  expect_mentions(refused(0, 1), {"profiling.profile_step_end=1", "no step"});
  EXPECT_EQ(refused(0, 2), std::nullopt);
}

TEST_F(Profile, StepsThatAreNotMadeAreTold) {
  const auto said = [](const TrainConfig& config) {
    ::testing::internal::CaptureStderr();
    const Trainer trainer(config);
    return ::testing::internal::GetCapturedStderr();
  };
  const std::string line = "profiling.profile_step_start=";
  TrainConfig config = traced("stopped", 4, 6);
  config.train.exit_interval = 3;
  expect_mentions(said(config), {line + "4: nothing is traced: first at step 4, and "
                                        "train.exit_interval=3 stops at 3"});
  run(config);
  config.checkpoint.load = config.checkpoint.save;
  EXPECT_EQ(said(config).find(line), std::string::npos);  // it goes on to 6
  config.profiling.profile_step_start = 2;
  config.profiling.profile_step_end = 4;
  expect_mentions(said(config), {line + "2: nothing is traced: step 3 is made already"});
  TrainConfig epochs = traced("epochs", 10, 12);
  epochs.train.num_epochs = 1;
  epochs.scheduler.lr_warmup_iters = 0;
  EXPECT_REFUSED(const Trainer trainer(epochs, {.keys = {"profiling.use_pytorch_profiler"}}),
                 "profiling.use_pytorch_profiler=true has no effect: nothing is traced");
}

}  // namespace
}  // namespace trestle
