#include "run/saver.h"

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <utility>

#include "base/bytes.h"
#include "base/file.h"
#include "base/json.h"
#include "base/thread.h"
#include "megatron/checkpoint.h"
#include "run/run_directory.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// All that happens to a checkpoint, in order: a kill between two of them leaves the older one or
// this one whole, and what is removed is removed last.
std::vector<std::string> write_whole(const Snapshot& snapshot, bool is_best,
                                     const std::optional<HuggingFaceFolder>& folder,
                                     const Retention& retention, const Group& ranks) {
  write_checkpoint(snapshot, folder, ranks);
  if (ranks.rank() != 0) return {};
  const RunProgress& progress = snapshot.progress;
  const fs::path& run = snapshot.output.run;
  if (is_best) write_best(run, progress.best);
  Saved saved{
      .run = run, .step = progress.step, .best = progress.former_best, .lineage = progress.lineage};
  if (progress.best) saved.best.push_back(progress.best->step);
  return remove_old_checkpoints(saved, retention);
}

}  // namespace

void write_best(const fs::path& run, const std::optional<BestStep>& best) {
  const fs::path file = run / "best.json";
  // A run that goes on under another directory has left its best behind.
  if (!best || !is_there(iteration_directory(run, best->step))) {
    fs::remove(file);
    return;
  }
  write_json(file, {{"step", best->step},
                    {"metric", best->metric},
                    {"value", best->value},
                    {"checkpoint", iteration_directory(run, best->step).filename().string()}});
}

std::optional<std::string> told_of_best_elsewhere(const CheckpointOptions& checkpoint,
                                                  const std::optional<BestStep>& best) {
  if (!best || is_there(iteration_directory(checkpoint.save, best->step))) return std::nullopt;
  fs::path left;
  if (!checkpoint.load.empty()) {
    left = iteration_directory(megatron_directory(checkpoint.load).parent_path(), best->step);
  }
  return fmt::format(
      "the best checkpoint so far, {}={:.6g} of step {}, is not in checkpoint.save={}{}; best.json "
      "will name the next one that is better",
      best->metric, best->value, best->step, checkpoint.save,
      !left.empty() && is_there(left) ? fmt::format(" but stays in {}", left.string()) : "");
}

CheckpointSaver::CheckpointSaver(const CheckpointOptions& options,
                                 std::optional<HuggingFaceFolder> folder, Group ranks)
    : async_(options.async_save),
      retention_(retention_of(options)),
      folder_(std::move(folder)),
      ranks_(std::move(ranks)) {}

CheckpointSaver::~CheckpointSaver() {
  try {
    wait();
  } catch (const std::exception& error) {
    fmt::print(stderr, "warning: {}\n", error.what());
  }
}

void CheckpointSaver::save(Snapshot snapshot, bool is_best) {
  wait();
  const int64_t step = snapshot.progress.step;
  if (!async_) {
    collect(write_whole(snapshot, is_best, folder_, retention_, ranks_), step);
    return;
  }
  uint64_t bytes = 0;
  for (const HeldTensor& each : snapshot.tensors) bytes += each.data.nbytes();
  const bool is_small = bytes < 100'000'000;
  tell(fmt::format("checkpoint.async_save=true: {:.1f} {} more memory, for a copy of what is saved",
                   is_small ? static_cast<double>(bytes) / 1e6 : gigabytes(bytes),
                   is_small ? "MB" : "GB"));
  auto task = std::make_shared<std::packaged_task<Notes()>>(
      [snapshot = std::move(snapshot), is_best, folder = folder_, retention = retention_,
       ranks = ranks_] { return write_whole(snapshot, is_best, folder, retention, ranks); });
  std::future<Notes> pending = task->get_future();
  thread_ = start_thread([task] { (*task)(); }, "checkpoint.async_save=true");
  pending_ = std::move(pending);
  pending_step_ = step;
}

std::optional<int64_t> CheckpointSaver::finished() {
  if (pending_.valid() && pending_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    wait();
  }
  return std::exchange(finished_, std::nullopt);
}

void CheckpointSaver::wait() {
  if (!pending_.valid()) return;
  pending_.wait();
  thread_.join();  // the snapshot's memory is free
  collect(pending_.get(), pending_step_);
}

void CheckpointSaver::collect(const Notes& notes, int64_t step) {
  for (const std::string& note : notes) tell(note);
  finished_ = step;
}

void CheckpointSaver::tell(const std::string& note) {
  if (ranks_.rank() == 0 && told_.insert(note).second) fmt::print(stderr, "{}\n", note);
}

}  // namespace trestle
