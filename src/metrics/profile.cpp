#include "metrics/profile.h"

#include <ATen/record_function.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <cstdlib>
#include <set>
#include <string>

#include "base/error.h"

namespace trestle {
namespace fs = std::filesystem;

using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

// Named as torch.profiler names a step, by which TensorBoard's page of profiles finds it.
struct StepProfile::StepRange {
  explicit StepRange(int64_t step) : guard(at::RecordScope::USER_SCOPE) {
    if (guard.isActive()) guard.before(fmt::format("ProfilerStep#{}", step));
  }
  at::RecordFunction guard;
};

StepProfile::StepProfile(const TrainConfig& config)
    : path_(fs::path(config.checkpoint.save) / "torch_profile" / "rank-0.json"),
      first_(config.profiling.profile_step_start),
      end_(config.profiling.use_pytorch_profiler ? config.profiling.profile_step_end : 0),
      shapes_(config.profiling.pytorch_profiler_collect_shapes) {}

StepProfile::~StepProfile() {
  try {
    finish();
  } catch (const std::exception& error) {
    fmt::print(stderr, "warning: {}\n", error.what());
  }
}

void StepProfile::begin_step(int64_t step) {
  if (step >= end_ || step < first_) return;
  if (!recording_) {
    // Its lines about itself on stderr.
    ::setenv("KINETO_LOG_LEVEL", "99", /*overwrite=*/0);
    const ProfilerConfig config(ProfilerState::KINETO, shapes_);
    const std::set<ActivityType> activities = {ActivityType::CPU};
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
    recording_ = true;
  }
  range_ = std::make_unique<StepRange>(step);
}

void StepProfile::end_step(int64_t step) {
  range_.reset();
  if (step + 1 >= end_) finish();
}

void StepProfile::finish() {
  range_.reset();
  if (!recording_) return;
  recording_ = false;
  const auto result = torch::autograd::profiler::disableProfiler();
  std::error_code error;
  fs::create_directories(path_.parent_path(), error);
  if (error) machine_error("cannot create {}: {}", path_.parent_path().string(), error.message());
  const fs::path temporary = path_.string() + ".part";
  fs::remove(temporary, error);
  // Says by no means whether it could write.
  result->save(temporary.string());
  if (fs::file_size(temporary, error) == 0 || error) {
    machine_error("cannot write {}: is the disk full?", path_.string());
  }
  fs::rename(temporary, path_, error);
  if (error) machine_error("cannot write {}: {}", path_.string(), error.message());
  fmt::print(stderr, "traced steps are in {}; open it in ui.perfetto.dev or chrome://tracing\n",
             path_.string());
}

}  // namespace trestle
