// A run of the trainer: steps, what is written of them and when it ends.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/heap.h"
#include "base/stop_signal.h"
#include "metrics/log.h"
#include "metrics/profile.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"
#include "run/run_directory.h"
#include "run/saver.h"
#include "run/snapshot.h"
#include "train/trainer.h"

namespace trestle {
namespace fs = std::filesystem;

using Clock = std::chrono::steady_clock;

struct Trainer::Output {
  Output(const TrainConfig& config, const RunProgress& progress, int64_t ranks)
      : log(config, progress.step, ranks), profile(config) {}

  MetricsLog log;
  StepProfile profile;
};

void Trainer::tell_of_saved(CheckpointSaver& saver, Output* output) {
  const auto saved = saver.finished();
  if (saved && output != nullptr) output->log.checkpoint_saved(*saved);
}

void Trainer::save(CheckpointSaver& saver, Output* output, bool best) const {
  // One copy at a time; and the one before is told of while it is there: the next may remove it.
  saver.wait();
  tell_of_saved(saver, output);
  saver.save(take_snapshot(config_, *model_, *optimizer_, progress_, identity_, base_, huggingface_,
                           /*copied=*/saver.is_async(),
                           ranks_.plan(config_.optimizer.use_distributed_optimizer)),
             best);
  if (output != nullptr) output->log.checkpoint_taken();
}

bool Trainer::validate(Output* output) {
  bool is_best = false;
  for (const auto& validation : validations_) {
    if (!validation->is_due(progress_.step)) continue;
    const ValidationMetrics metrics =
        validation->run(*model_, *pipeline_, features_.get(), progress_.step, ranks_.grid);
    if (output != nullptr) {
      output->log.write(metrics);
      MetricsLog::print_progress(metrics);
    }
    const auto best = validation->better(metrics, progress_.best);
    if (best) progress_.best = best;
    is_best = is_best || best;
  }
  return is_best;
}

int Trainer::run(const OnStep& on_step) {
  try {
    return run_steps(on_step);
  } catch (const c10::Error& error) {
    const auto asked = memory_asked(error.what_without_backtrace());
    if (!asked) throw;
    machine_error("step {}: {}; the last checkpoint stands", progress_.step,
                  out_of_memory_line(*asked, memory_held(), config_));
  }
}

int Trainer::run_steps(const OnStep& on_step) {
  const fs::path directory = config_.checkpoint.save;
  std::optional<RunLock> lock;
  std::optional<Output> output;
  together(ranks_.grid.world, [&] {
    if (!ranks_.is_first()) return;
    std::error_code error;
    fs::create_directories(directory, error);
    if (error)
      machine_error("cannot create checkpoint.save={}: {}", directory.string(), error.message());
    lock.emplace(directory);
    if (state_of(directory) != found_) {
      user_error(
          "checkpoint.save={} was written to by another run while this one was opened; go on with "
          "it by checkpoint.load={} (or auto), or name another directory",
          directory.string(), directory.string());
    }
    write_text(directory / kResolvedConfig, std::string(kResolvedConfigMark) + to_yaml(config_));
    for (const std::string& line : remove_remains(directory)) fmt::print(stderr, "{}\n", line);
    write_best(directory, progress_.best);  // steps that are made again do not count yet
    if (const auto line = told_of_best_elsewhere(config_.checkpoint, progress_.best)) {
      fmt::print(stderr, "{}\n", *line);
    }
    output.emplace(config_, progress_, ranks_.size);
  });
  const int stopped = make_steps(on_step, output ? &*output : nullptr);
  ranks_.grid.world.barrier();  // the first rank has written all that there is
  found_ = state_of(directory);
  return stopped;
}

Trainer::Stop Trainer::agreed_stop(int signal, bool exit) const {
  const int64_t most = ranks_.grid.world.max(2 * int64_t{signal} + (exit ? 1 : 0));
  return {static_cast<int>(most / 2), most % 2 == 1};
}

int Trainer::make_steps(const OnStep& on_step, Output* output) {
  const TrainOptions& train = config_.train;
  const StopSignal signal;
  CheckpointSaver saver(config_.checkpoint, huggingface_, ranks_.saving);
  const Clock::time_point began = Clock::now();
  while (progress_.step < train.train_iters) {
    if (output != nullptr) output->profile.begin_step(progress_.step + 1);
    const StepMetrics metrics = step();
    if (output != nullptr) {
      output->profile.end_step(metrics.step);
      output->log.write(metrics);
      if (metrics.step % config_.logger.log_interval == 0 || !metrics.skipped.empty()) {
        output->log.print_progress(metrics);
      }
    }
    if (on_step) on_step(metrics);
    const double minutes = std::chrono::duration<double>(Clock::now() - began).count() / 60;
    const Stop stop =
        agreed_stop(signal.received(),
                    (train.exit_interval && metrics.step % *train.exit_interval == 0) ||
                        (train.exit_duration_in_mins && minutes > *train.exit_duration_in_mins));
    const bool best = stop.signal == 0 && validate(output);
    if (best || metrics.step % config_.checkpoint.save_interval == 0 ||
        metrics.step == train.train_iters || stop.exit || stop.signal != 0) {
      save(saver, output, best);
    }
    if (stop.signal != 0) saver.wait();
    tell_of_saved(saver, output);
    if (stop.signal != 0) {
      if (output == nullptr) return stop.signal;
      output->profile.finish();
      fmt::print(stderr, "{}: saved step {}; go on with checkpoint.load={}\n",
                 signal_name(stop.signal), metrics.step, config_.checkpoint.save);
      output->log.finish(RunEnd::kInterrupted);
      return stop.signal;
    }
    if (stop.exit) break;
  }
  saver.wait();
  tell_of_saved(saver, output);
  if (output == nullptr) return 0;
  output->profile.finish();
  output->log.finish(progress_.step < train.train_iters ? RunEnd::kStopped : RunEnd::kFinished);
  return 0;
}

}  // namespace trestle
