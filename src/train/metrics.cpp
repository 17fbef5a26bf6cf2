#include "train/metrics.h"

#include <fmt/format.h>

#include <cstdio>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "train/trainer.h"

namespace trestle {

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t first_step, int64_t last_step)
    : path_(path), first_step_(first_step), last_step_(last_step) {
  std::string kept;
  if (first_step > 0 && std::filesystem::exists(path)) {
    std::ifstream old(path);
    for (std::string line; std::getline(old, line);) {
      const Json parsed = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      // A line cut short by a kill does not parse; its step is made again.
      if (parsed.is_object() && parsed.value("step", first_step + 1) <= first_step)
        kept += line + "\n";
    }
  }
  write_text(path, kept);
  file_.open(path, std::ios::app);
}

void MetricsLog::write(const StepMetrics& metrics) {
  Json line = {{"step", metrics.step},
               {"loss", metrics.loss},
               {"lr", metrics.lr},
               {"grad_norm", metrics.grad_norm},
               {"target_tokens", metrics.target_tokens},
               {"tokens", metrics.tokens},
               {"images", metrics.images},
               {"seconds", metrics.seconds},
               {"peak_memory_bytes", metrics.peak_memory_bytes}};
  if (!metrics.skipped.empty()) line["skipped"] = metrics.skipped;
  append(line);
}

void MetricsLog::write(const ValidationMetrics& metrics) {
  Json line = {
      {"step", metrics.step}, {"valid_loss", metrics.loss}, {"valid_seconds", metrics.seconds}};
  for (const auto& [name, score] : metrics.scores) line["valid_" + name] = score;
  append(line);
}

void MetricsLog::append(const Json& line) {
  // NaN is no JSON; it becomes null.
  file_ << line.dump() << '\n' << std::flush;
  if (!file_) machine_error("cannot write {}: is the disk full?", path_.string());
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
  fmt::print(stderr,
             "step {:>4}/{}  loss {:.4f}  lr {:.2e}  grad {:.3f}  {:.0f} tok/s  eta {}:{:02}\n",
             metrics.step, last_step_, metrics.loss, metrics.lr, metrics.grad_norm,
             static_cast<double>(metrics.tokens) / metrics.seconds, left / 60, left % 60);
}

}  // namespace trestle
