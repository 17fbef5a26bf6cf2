#include "planner/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"

namespace trestle {

namespace {

// Played through for each stage; the rest goes on as the slowest does.
constexpr int64_t kRoundsPlayed = 8;
// Of a run that makes no progress.
constexpr int64_t kMostFailures = 1'000'000;

double as_double(int64_t value) { return static_cast<double>(value); }

std::string hours(double seconds) {
  if (seconds < 120) return fmt::format("{:.3g} s", seconds);
  if (seconds < 7200) return fmt::format("{:.3g} min", seconds / 60);
  return seconds < 200 * 3600 ? fmt::format("{:.3g} h", seconds / 3600)
                              : fmt::format("{:.4g} days", seconds / 86400);
}

}  // namespace

Schedule simulate_schedule(const Topology& topology, int64_t micro_batches,
                           const std::vector<StageTime>& stages, double send) {
  const int64_t p = topology.pipeline;
  const int64_t played = std::min(micro_batches, kRoundsPlayed * p);
  const double share = 1 / as_double(topology.virtual_pipeline);
  std::vector<std::vector<PipelinePass>> orders;
  std::vector<StageTime> takes;
  for (int64_t stage = 0; stage < p; ++stage) {
    const StageTime& all = stages[static_cast<size_t>(stage)];
    orders.push_back(pipeline_schedule(topology, stage, played));
    takes.push_back({share * all.forward, share * all.backward});
  }
  const double length = timeline(topology, orders, takes, send).value().length;
  double slowest = 0;
  for (const StageTime& stage : stages) slowest = std::max(slowest, stage.forward + stage.backward);
  const double rest = as_double(micro_batches - played);
  Schedule schedule{length + rest * slowest, {}};
  for (size_t s = 0; s < orders.size(); ++s) {
    double busy = 0;
    for (const PipelinePass& pass : orders[s]) {
      busy += pass.kind == PipelinePass::Kind::kForward ? takes[s].forward : takes[s].backward;
    }
    const double works = busy + rest * (stages[s].forward + stages[s].backward);
    schedule.idle.push_back(1 - works / schedule.seconds);
  }
  return schedule;
}

double young_interval(const Failures& failures) {
  return std::sqrt(2 * failures.save * failures.mean_time);
}

double daly_interval(const Failures& failures) {
  const double ratio = failures.save / (2 * failures.mean_time);
  if (ratio >= 1) return failures.mean_time;
  return young_interval(failures) * (1 + std::sqrt(ratio) / 3 + ratio / 9) - failures.save;
}

double expected_seconds(const Failures& failures, double work, double interval) {
  const double mean = failures.mean_time;
  return mean * std::exp(failures.restart / mean) * std::expm1((interval + failures.save) / mean) *
         work / interval;
}

PlayedRun simulate_failures(const Failures& failures, double work, double interval, uint64_t seed,
                            int64_t times) {
  std::mt19937_64 generator(seed);
  std::exponential_distribution<double> until(1 / failures.mean_time);
  PlayedRun sum;
  for (int64_t i = 0; i < times; ++i) {
    int64_t broken = 0;
    double next = until(generator);  // from now to the next failure
    for (double done = 0; done < work;) {
      const double part = std::min(interval, work - done), whole = part + failures.save;
      if (next >= whole) {
        next -= whole;
        sum.seconds += whole;
        sum.saving += failures.save;
        done += part;
        continue;
      }
      sum.seconds += next;
      sum.lost += next;
      // It may break again before the first step.
      for (next = until(generator), ++broken; next < failures.restart && broken < kMostFailures;
           ++broken) {
        sum.seconds += next;
        sum.restarting += next;
        next = until(generator);
      }
      if (broken >= kMostFailures) {
        user_error(
            "a run that fails every {} never ends a save and the steps before it ({} and {})",
            hours(failures.mean_time), hours(failures.save), hours(interval));
      }
      sum.seconds += failures.restart;
      sum.restarting += failures.restart;
      next -= failures.restart;
    }
    sum.failures += as_double(broken);
  }
  const double runs = as_double(times);
  return {sum.seconds / runs, sum.failures / runs, sum.lost / runs, sum.saving / runs,
          sum.restarting / runs};
}

double checkpoint_bytes(const PlannedRun& run) {
  const double state = 3 * as_double(kFloatBytes);
  double bytes = 0;
  for (const PlannedWeight& weight : run.shape.weights()) {
    if (weight.trains) bytes += as_double(weight.count) * (state + as_double(run.element_bytes()));
    if (!weight.trains && !run.config.trains_adapters()) bytes += as_double(weight.bytes);
  }
  return bytes;
}

std::vector<std::string> simulated(const PlannedRun& run, const Candidate& one,
                                   const Machine& machine, const SimulateOptions& options) {
  const Topology& t = one.topology;
  const StepPlan& step = one.step;
  const Schedule schedule = simulate_schedule(t, step.micro_batches, stage_times(run, t, machine),
                                              send_seconds(run, t, machine));
  const double seconds = schedule.seconds + step.data + step.optimizer;
  std::vector<std::string> lines = {
      fmt::format("simulated: {} on {} ranks, {} steps", to_string(t), machine.ranks,
                  run.config.train.train_iters),
      fmt::format("  a step {:.4g} s by its schedule ({:.4g} s by formula); stages wait {:.1f} to "
                  "{:.1f} % of it",
                  seconds, step.seconds, 100 * std::ranges::min(schedule.idle),
                  100 * std::ranges::max(schedule.idle)),
      fmt::format("  a rank sends, GB a second: tensor {:.3g}, context {:.3g}, stages {:.3g}, "
                  "gradients {:.3g}",
                  step.traffic.tensor / seconds / 1e9, step.traffic.context / seconds / 1e9,
                  step.traffic.pipeline / seconds / 1e9, step.traffic.data / seconds / 1e9)};
  const Failures failures{options.mean_hours * 3600 / as_double(machine.ranks),
                          checkpoint_bytes(run) / options.disk, options.restart};
  const double best = daly_interval(failures);
  const auto steps = std::max<int64_t>(1, std::llround(best / seconds));
  lines.push_back(fmt::format(
      "  a failure every {}, a checkpoint of {:.3g} GB in {}: best is one every {} (Daly; Young "
      "{}), checkpoint.save_interval={}",
      hours(failures.mean_time), checkpoint_bytes(run) / 1e9, hours(failures.save), hours(best),
      hours(young_interval(failures)), steps));
  const double work = seconds * as_double(run.config.train.train_iters);
  const auto played = [&](const char* what, int64_t interval) {
    constexpr int64_t kTimes = 100;
    const double between = std::min(work, seconds * as_double(interval));
    // Most of it would be failures, more than can be played.
    if (!(expected_seconds(failures, work, between) < 1e5 * failures.mean_time)) {
      lines.push_back(
          fmt::format("  {} {}: it never ends: {} between checkpoints, and a failure every {}",
                      what, interval, hours(between), hours(failures.mean_time)));
      return;
    }
    const PlayedRun mean = simulate_failures(failures, work, between,
                                             static_cast<uint64_t>(run.config.rng.seed), kTimes);
    lines.push_back(fmt::format(
        "  {} {}: {} in all, {:.1f} failures, {} lost, {} saving, {} restarting; {:.1f} % of the "
        "time trains",
        what, interval, hours(mean.seconds), mean.failures, hours(mean.lost), hours(mean.saving),
        hours(mean.restarting), 100 * work / mean.seconds));
  };
  played("with that", steps);
  played("with checkpoint.save_interval", run.config.checkpoint.save_interval);
  return lines;
}

}  // namespace trestle
