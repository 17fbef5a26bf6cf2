// Writes a run's checkpoints one after the other and, behind each that is whole, best.json and what
// retention removes: at once, or (checkpoint.async_save) in a thread of its own while the run goes
// on. Called by the trainer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <future>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "parallel/group.h"
#include "recipes/config.h"
#include "run/huggingface_folder.h"
#include "run/retention.h"
#include "run/snapshot.h"

namespace trestle {

/// best.json in `run` says which checkpoint is `best`; there is none where that is not in it.
void write_best(const std::filesystem::path& run, const std::optional<BestStep>& best);

/// Nothing, or a line: the best so far of a run that goes on under another directory, or whose best
/// was removed, is none that best.json could name.
std::optional<std::string> told_of_best_elsewhere(const CheckpointOptions& checkpoint,
                                                  const std::optional<BestStep>& best);

class CheckpointSaver {
 public:
  /// One on every rank of `ranks`, a group of its own: with checkpoint.async_save it is used by
  /// the writer's thread. The first alone tells and removes.
  CheckpointSaver(const CheckpointOptions& options, std::optional<HuggingFaceFolder> folder,
                  Group ranks = {});
  /// Waits. What the writer met then is a line on stderr: another error is on its way up.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  bool is_async() const { return async_; }
  /// By all ranks at the same step. Waits for the one before; then `snapshot` (copied, where
  /// is_async()) is written. `is_best`: best.json names it when it is there. Throws what the writer
  /// of either met.
  void save(Snapshot snapshot, bool is_best);
  /// The step of the checkpoint that has become whole since this was asked last. Throws what its
  /// writer met.
  std::optional<int64_t> finished();
  /// No checkpoint is being written any more. Throws what its writer met.
  void wait();

 private:
  /// Lines about what retention left.
  using Notes = std::vector<std::string>;
  void collect(const Notes& notes, int64_t step);
  /// Once.
  void tell(const std::string& note);

  bool async_;
  Retention retention_;
  std::optional<HuggingFaceFolder> folder_;
  Group ranks_;
  std::set<std::string> told_;  // lines
  std::optional<int64_t> finished_;
  // The thread has copies of all it works on, and gives back what is here.
  std::future<Notes> pending_;
  int64_t pending_step_ = 0;
  std::jthread thread_;
};

}  // namespace trestle
