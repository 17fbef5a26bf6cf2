// A run's directory before the run: where to go on from, and what must not be written over. Called
// by the trainer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/config.h"

namespace trestle {

/// checkpoint.load: checkpoint.save, if it has a checkpoint.
constexpr const char* kAuto = "auto";

/// The number of an iter_0000012; nothing for other names.
std::optional<int64_t> iteration_of(const std::string& name);
/// RUN/iter_0000012.
std::filesystem::path iteration_directory(const std::filesystem::path& run, int64_t step);
/// Numbers of all that has such a name in a run, sorted.
std::vector<int64_t> iterations_of(const std::filesystem::path& run);

/// Whether a run goes on in its own directory: checkpoint.load, settled, is checkpoint.save or one
/// of its iterations.
bool is_in_place(const CheckpointOptions& checkpoint);

/// checkpoint.load=auto becomes checkpoint.save where that holds a checkpoint, and nothing where it
/// does not; with checkpoint.ckpt_step, which is taken back, it becomes that iteration. Throws
/// UserError where checkpoint.load is no run or iteration or has no such step, where
/// checkpoint.finetune would begin a run in the place of another, and, before anything is written,
/// where checkpoint.save
/// - holds a run that is not the one to go on with, or a newer iteration than the one to go on
/// from,
/// - holds a run that reached no checkpoint and was begun from another one than it would be now,
/// - lies within another run or checkpoint,
/// - holds the base model, the adapter that the run starts from, or data or another output under a
/// name that it writes,
/// - has a file of a name that a run writes, and no run has made it, or what is no file there,
/// - has, behind the step to go on from, more than the one checkpoint that a kill may leave there,
/// or another run's, or one with files that no run made.
void settle_run_directory(TrainConfig& config);

/// The first thing that a run writes, and its first line: whoever made the file otherwise keeps it.
constexpr const char* kResolvedConfig = "resolved_config.yaml";
constexpr std::string_view kResolvedConfigMark =
    "# Written by trestle finetune: all that this run was told.\n";

/// What a run's directory holds, told from what it holds when another run has written to it.
struct RunState {
  std::optional<int64_t> newest;
  uint64_t metrics_bytes = 0;
  bool operator==(const RunState&) const = default;
};
RunState state_of(const std::filesystem::path& run);

/// Holds a run's directory, which is there, for one process: two that wrote to it would lose each
/// other's steps. Throws UserError where another has it. The kernel lets go when the process dies;
/// where a file system has no locks there is none.
class RunLock {
 public:
  explicit RunLock(const std::filesystem::path& run);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int fd_;
};

}  // namespace trestle
