#include "metrics/log.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "metrics/scalars.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

fs::path tensorboard_directory(const TrainConfig& config) {
  const std::string& named = config.logger.tensorboard_dir;
  return named.empty() ? fs::path(config.checkpoint.save) / "tensorboard" : fs::path(named);
}

struct OldLines {
  std::vector<std::pair<std::string, Json>> steps;
  std::vector<size_t> strangers;  // their numbers, from 1
};

// A last line that a kill cut short is neither: its step is made again.
OldLines old_lines(const fs::path& path) {
  OldLines lines;
  std::istringstream old(read_text(path));
  size_t number = 0;
  for (std::string line; std::getline(old, line);) {
    ++number;
    Json parsed = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto step = parsed.is_object() ? parsed.find("step") : parsed.end();
    if (parsed.is_object() && step != parsed.end() && step->is_number_integer()) {
      lines.steps.emplace_back(std::move(line), std::move(parsed));
    } else if (!old.eof()) {
      lines.strangers.push_back(number);
    }
  }
  return lines;
}

std::string numbers_text(std::span<const size_t> numbers) {
  constexpr size_t kShown = 8;
  const size_t shown = std::min(numbers.size(), kShown);
  std::string text = fmt::format("{}", fmt::join(numbers.first(shown), ", "));
  if (shown < numbers.size()) text += fmt::format(" and {} more", numbers.size() - shown);
  return text;
}

}  // namespace

MetricsLog::MetricsLog(const TrainConfig& config, int64_t first_step, int64_t ranks)
    : path_(fs::path(config.checkpoint.save) / "metrics.jsonl"),
      first_step_(first_step),
      last_step_(config.train.train_iters),
      options_(config.logger),
      global_batch_size_(config.train.global_batch_size),
      report_(fs::path(config.checkpoint.save) / "report.html", to_yaml(config), last_step_),
      wandb_(WandbRun::start(config, first_step)),
      mlflow_(MlflowRun::start(config, first_step)),
      // A validation before the first step is of step 0.
      tensorboard_(tensorboard_directory(config), first_step == 0 ? 0 : first_step + 1) {
  std::string kept;
  if (first_step > 0 && fs::exists(path_)) {
    const OldLines old = old_lines(path_);
    for (const auto& [line, parsed] : old.steps) {
      if (parsed["step"] > first_step) continue;  // made again
      kept += line + "\n";
      report_.add(parsed);
      add_to_totals(parsed);
    }
    if (!old.strangers.empty()) {
      fmt::print(stderr, "{}: left out what is no line of a step: {} {}\n", path_.string(),
                 old.strangers.size() == 1 ? "line" : "lines", numbers_text(old.strangers));
    }
  }
  write_text(path_, kept);
  file_.open(path_, std::ios::app);
  if (options_.log_progress) progress_.emplace(config.checkpoint.save, totals_, ranks);
}

MetricsLog::~MetricsLog() {
  if (finished_) return;
  try {
    finish(RunEnd::kFailed);
  } catch (const std::exception& error) {
    // What ended the run is on its way up; this would hide it.
    fmt::print(stderr, "warning: {}\n", error.what());
  }
}

void MetricsLog::write(const StepMetrics& metrics) {
  Json line = {{"step", metrics.step},
               {"ranks", metrics.ranks},
               {"loss", metrics.loss},
               {"lr", metrics.lr},
               {"grad_norm", metrics.grad_norm},
               {"target_tokens", metrics.target_tokens},
               {"tokens", metrics.tokens},
               {"images", metrics.images},
               {"forwards", metrics.forwards},
               {"seconds", metrics.seconds},
               {"peak_memory_bytes", metrics.peak_memory_bytes},
               {"flops", metrics.flops}};
  if (metrics.params_norm) line["params_norm"] = *metrics.params_norm;
  if (!metrics.skipped.empty()) line["skipped"] = metrics.skipped;
  append(line);
  if (metrics.step % options_.tensorboard_log_interval == 0) {
    write_scalars(metrics.step, scalars_of(metrics, options_, global_batch_size_));
  }
}

void MetricsLog::write(const ValidationMetrics& metrics) {
  const std::string of_set = set_suffix(metrics.set);
  Json line = {{"step", metrics.step},
               {"valid_loss" + of_set, metrics.loss},
               {"valid_seconds", metrics.seconds}};
  for (const auto& [name, score] : metrics.scores) line["valid_" + name + of_set] = score;
  append(line);
  write_scalars(metrics.step, scalars_of(metrics));
  report_.set_answers(metrics.step, metrics.set, metrics.answers);
  report_.write("running");
}

void MetricsLog::append(const Json& line) {
  // NaN is no JSON; it becomes null.
  file_ << line.dump() << '\n' << std::flush;
  if (!file_) machine_error("cannot write {}: {}", path_.string(), std::strerror(errno));
  report_.add(line);
  add_to_totals(line);
}

void MetricsLog::add_to_totals(const Json& line) {
  const auto number = [&](const char* key) {
    const auto found = line.find(key);
    return found != line.end() && found->is_number() ? found->get<double>() : 0;
  };
  totals_.flops += number("flops");
  totals_.tokens += static_cast<int64_t>(number("tokens"));
}

void MetricsLog::write_scalars(int64_t step, const Scalars& scalars) {
  tensorboard_.write(step, scalars);
  if (wandb_) wandb_->write(step, scalars);
  if (mlflow_) mlflow_->write(step, scalars);
}

void MetricsLog::checkpoint_taken() {
  if (progress_) progress_->taken(totals_);
}

void MetricsLog::checkpoint_saved(int64_t step) {
  report_.write("running");
  if (progress_) progress_->saved(step);
  if (mlflow_) mlflow_->add_checkpoint(step);
}

void MetricsLog::finish(RunEnd end) {
  finished_ = true;
  const bool failed = end == RunEnd::kFailed;
  report_.write(failed ? "failed" : end == RunEnd::kFinished ? "finished" : "stopped");
  if (mlflow_) {
    mlflow_->finish(failed                        ? MlflowMeta::kFailed
                    : end == RunEnd::kInterrupted ? MlflowMeta::kKilled
                                                  : MlflowMeta::kFinished);
  }
  // Last, as it may wait for its upload.
  if (wandb_) wandb_->finish(failed ? 1 : 0, end != RunEnd::kInterrupted);
}

void MetricsLog::print_progress(const StepMetrics& metrics) const {
  if (!metrics.skipped.empty()) {
    fmt::print(stderr, "step {:>4}/{}  skipped: {}\n", metrics.step, last_step_, metrics.skipped);
    return;
  }
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double done = static_cast<double>(metrics.step - first_step_);
  const auto left =
      static_cast<int64_t>(elapsed / done * static_cast<double>(last_step_ - metrics.step));
  std::string more;
  if (metrics.params_norm) more += fmt::format("  params {:.3f}", *metrics.params_norm);
  if (options_.log_throughput) {
    more += fmt::format("  {:.4g} TFLOP/s", metrics.flops / metrics.seconds / 1e12);
  }
  fmt::print(stderr,
             "step {:>4}/{}  loss {:.4f}  lr {:.2e}  grad {:.3f}{}  {:.0f} tok/s  eta {}:{:02}\n",
             metrics.step, last_step_, metrics.loss, metrics.lr, metrics.grad_norm, more,
             static_cast<double>(metrics.tokens) / metrics.seconds, left / 60, left % 60);
}

void MetricsLog::print_progress(const ValidationMetrics& metrics) {
  std::string scores;
  for (const auto& [name, score] : metrics.scores)
    scores += fmt::format("  {} {:.4f}", name, score);
  fmt::print(stderr, "step {:>4}  validation{} loss {:.4f}{}  {:.1f} s\n", metrics.step,
             set_suffix(metrics.set), metrics.loss, scores, metrics.seconds);
}

}  // namespace trestle
