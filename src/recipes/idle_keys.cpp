#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "recipes/effects.h"
#include "recipes/schedule.h"

namespace trestle {

namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// A key that acts at some steps alone.
struct StepKey {
  std::string key, value;
  // What is not done where it acts at none: "nothing is traced".
  std::string idle;
  // The first step behind those that are made at which it acts.
  int64_t first = kNever;
  // Of a run as a whole: what it says of steps to come is no matter of where train.exit_interval
  // stops before them.
  bool of_whole_run = false;
  // What every run has, or does at its end anyway, is told of where somebody chose it.
  bool where_asked = false;
};

int64_t next_multiple(int64_t interval, int64_t from) {
  return (std::max<int64_t>(from, 1) + interval - 1) / interval * interval;
}

// Where a process that has made `made` steps ends.
int64_t last_step(const TrainConfig& config, int64_t made) {
  const auto& interval = config.train.exit_interval;
  const int64_t end = config.train.train_iters;
  return interval ? std::min(end, next_multiple(*interval, made + 1)) : end;
}

StepKey of_profile(const ProfilingOptions& profiling, int64_t made) {
  const int64_t first = std::max({profiling.profile_step_start, made + 1, int64_t{1}});
  return {"profiling.profile_step_start", format_value(profiling.profile_step_start),
          "nothing is traced", first < profiling.profile_step_end ? first : kNever};
}

StepKey of_validation(const TrainConfig& config, int64_t made) {
  const ValidationOptions& validation = config.validation;
  const auto& start = validation.start_eval_at_iter;
  const int64_t from = std::max(start.value_or(0), made + 1);
  int64_t first = next_multiple(validation.eval_interval, from);
  if (from <= config.train.train_iters) first = std::min(first, config.train.train_iters);
  if (start && *start > config.train.train_iters) {
    return {"validation.start_eval_at_iter", format_value(*start), "nothing is validated", first};
  }
  return {"validation.eval_interval", format_value(validation.eval_interval),
          "nothing is validated", first};
}

// What is done at the end of a run anyway.
void add_of_intervals(const TrainConfig& config, int64_t made, std::vector<StepKey>& keys) {
  const int64_t saves = config.checkpoint.save_interval,
                validates = config.validation.eval_interval;
  keys.push_back({"checkpoint.save_interval", format_value(saves),
                  "nothing is saved before the end", next_multiple(saves, made + 1), false, true});
  // Where the end is validated; else nothing is, which is told.
  if (!config.validation.is_on() || last_step(config, made) < config.train.train_iters) return;
  keys.push_back({"validation.eval_interval", format_value(validates),
                  "nothing is validated before the end", next_multiple(validates, made + 1), false,
                  true});
}

void add_of_checkpoints(const TrainConfig& config, int64_t made, std::vector<StepKey>& keys) {
  const CheckpointOptions& checkpoint = config.checkpoint;
  if (checkpoint.save_retain_interval) {
    keys.push_back(
        {"checkpoint.save_retain_interval", format_value(*checkpoint.save_retain_interval),
         checkpoint.most_recent_k > 0 ? "it keeps nothing beside what checkpoint.most_recent_k does"
                                      : "it keeps nothing beside the last checkpoint",
         next_multiple(*checkpoint.save_retain_interval, made + 1), true});
  }
  // One that is best is saved between the others.
  if (checkpoint.async_save && config.validation.best_metric.empty()) {
    keys.push_back({"checkpoint.async_save", "true",
                    "no step is made while a checkpoint is written",
                    next_multiple(checkpoint.save_interval, made + 1) + 1});
  }
}

// Of rates: what of a schedule a run never comes to.
void add_of_schedule(const TrainConfig& config, std::vector<StepKey>& keys) {
  const SchedulerOptions& scheduler = config.scheduler;
  if (scheduler.lr_decay_style == "constant") return;
  const double warmup = warmup_steps(config);
  if (warmup > 0) {
    const int64_t first = static_cast<int64_t>(warmup) + 2;
    keys.push_back({"scheduler.lr_decay_style", scheduler.lr_decay_style, "the rate only rises",
                    first, true, true});
    keys.push_back({"optimizer.min_lr", format_value(config.optimizer.min_lr),
                    "the rate only rises", first, true, true});
  }
  if (scheduler.lr_decay_style == "WSD" && scheduler.lr_wsd_decay_iters) {
    const int64_t first = decay_steps(config) - *scheduler.lr_wsd_decay_iters + 2;
    keys.push_back({"scheduler.lr_wsd_decay_iters", format_value(*scheduler.lr_wsd_decay_iters),
                    "the rate never falls", first, true});
  }
}

std::vector<StepKey> step_keys(const TrainConfig& config, int64_t made) {
  std::vector<StepKey> keys;
  if (config.profiling.use_pytorch_profiler) keys.push_back(of_profile(config.profiling, made));
  if (config.validation.is_on()) keys.push_back(of_validation(config, made));
  const LoggerOptions& logger = config.logger;
  keys.push_back({"logger.log_interval", format_value(logger.log_interval),
                  "no step has a progress line", next_multiple(logger.log_interval, made + 1)});
  keys.push_back({"logger.tensorboard_log_interval", format_value(logger.tensorboard_log_interval),
                  "TensorBoard, W&B and MLflow are told of no step",
                  next_multiple(logger.tensorboard_log_interval, made + 1)});
  const TrainOptions& train = config.train;
  if (train.exit_interval) {
    keys.push_back({"train.exit_interval", format_value(*train.exit_interval), "it stops nothing",
                    next_multiple(*train.exit_interval, made + 1), true});
  }
  if (train.loss_spike_factor > 0) {
    keys.push_back({"train.loss_spike_factor", format_value(train.loss_spike_factor),
                    fmt::format("no loss has {} before it to be measured by", kSpikeWindow),
                    kSpikeWindow + 1, true});
  }
  add_of_intervals(config, made, keys);
  add_of_checkpoints(config, made, keys);
  add_of_schedule(config, keys);
  return keys;
}

std::string line_of(const TrainConfig& config, const StepKey& each, int64_t made, int64_t last) {
  const std::string head = fmt::format("{}={}: {}: ", each.key, each.value, each.idle);
  if (each.first == kNever) return head + fmt::format("step {} is made already", made);
  const bool stops = last < config.train.train_iters;
  return head + (stops ? fmt::format("first at step {}, and train.exit_interval={} stops at {}",
                                     each.first, *config.train.exit_interval, last)
                       : fmt::format("first at step {}, and train.train_iters={}", each.first,
                                     config.train.train_iters));
}

// checkpoint.most_recent_k where it limits nothing.
std::string line_of_newest(const TrainConfig& config, const std::set<std::string>& asked,
                           int64_t made, bool has_checkpoints) {
  const CheckpointOptions& checkpoint = config.checkpoint;
  const int64_t newest = checkpoint.most_recent_k, interval = checkpoint.save_interval;
  const int64_t retained = checkpoint.save_retain_interval.value_or(0);
  if (newest > 0 && retained > 1 && interval % retained == 0) {
    return fmt::format(
        "checkpoint.most_recent_k={}: each checkpoint of checkpoint.save_interval={} is kept, a "
        "multiple of checkpoint.save_retain_interval={}; only those between them go",
        newest, interval, retained);
  }
  // One that is best, or where a part of the run ends, is saved between the others. Of those that
  // are there already some may go.
  if (newest <= 0 || has_checkpoints || !asked.contains("checkpoint.most_recent_k") ||
      config.train.exit_interval || !config.validation.best_metric.empty()) {
    return {};
  }
  const int64_t saved = (config.train.train_iters + interval - 1) / interval - made / interval;
  if (saved > newest || retained > 0) return {};
  return fmt::format(
      "checkpoint.most_recent_k={}: no checkpoint goes: the run saves {}{}, by "
      "checkpoint.save_interval={} and train.train_iters={}",
      newest, saved, made > 0 ? fmt::format(" behind step {}", made) : "", interval,
      config.train.train_iters);
}

}  // namespace

void refuse_behind_the_end(const TrainConfig& config, const std::set<std::string>& asked) {
  const int64_t end = config.train.train_iters;
  for (const StepKey& each : step_keys(config, 0)) {
    const bool is_trace = each.key.starts_with("profiling.");
    if (each.first <= end || (!is_trace && each.key != "validation.start_eval_at_iter")) continue;
    for (const FieldText& field : list_fields(config)) {
      const bool is_its = is_trace ? field.path.starts_with("profiling.") : field.path == each.key;
      if (!is_its || !asked.contains(field.path)) continue;
      const std::string by =
          field.path == each.key ? "" : fmt::format(" ({}={})", each.key, each.value);
      user_error(
          "{}={} has no effect: {}{}: first at step {}, and train.train_iters={}; leave it out, or "
          "make the run longer",
          field.path, field.value, each.idle, by, each.first, end);
    }
  }
}

std::vector<std::string> idle_keys(const TrainConfig& config, const std::set<std::string>& asked,
                                   int64_t made, bool has_checkpoints) {
  std::vector<std::string> lines;
  if (made >= config.train.train_iters) return lines;  // nothing is done at all
  for (const StepKey& each : step_keys(config, made)) {
    const int64_t last = each.of_whole_run ? config.train.train_iters : last_step(config, made);
    if (each.first > last && (!each.where_asked || asked.contains(each.key))) {
      lines.push_back(line_of(config, each, made, last));
    }
  }
  const std::string of_newest = line_of_newest(config, asked, made, has_checkpoints);
  if (!of_newest.empty()) lines.push_back(of_newest);
  return lines;
}

}  // namespace trestle
