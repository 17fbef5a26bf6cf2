#include "metrics/scalars.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>
#include <set>

#include "generate/evaluate.h"
#include "metrics/memory.h"

namespace trestle {

namespace {

constexpr std::string_view kValidation = "lm loss validation", kPerplexity = " ppl";
constexpr std::string_view kScore = "validation/";

// Those of every step that there may be.
std::set<std::string, std::less<>> names_of_steps() {
  LoggerOptions all;
  all.log_throughput_to_tensorboard = all.log_memory_to_tensorboard = true;
  all.log_world_size_to_tensorboard = true;
  std::set<std::string, std::less<>> names;
  for (const auto& [name, value] :
       scalars_of(StepMetrics{.seconds = 1, .params_norm = 1}, all, 1)) {
    names.insert(name);
  }
  return names;
}

// "" or "-NAME", as validation.sets may name one.
bool is_set_suffix(std::string_view text) {
  if (text.empty()) return true;
  const auto is_usual = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-';
  };
  return text.size() > 1 && text.front() == '-' && std::ranges::all_of(text, is_usual);
}

}  // namespace

std::string set_suffix(const std::string& set) { return set.empty() ? "" : "-" + set; }

Scalars scalars_of(const StepMetrics& metrics, const LoggerOptions& options,
                   int64_t global_batch_size) {
  Scalars scalars = {
      {"lm loss", metrics.loss},
      {"learning-rate", metrics.lr},
      {"grad-norm", metrics.grad_norm},
      {"iteration-time", metrics.seconds},
      {"throughput/tokens_per_sec", static_cast<double>(metrics.tokens) / metrics.seconds},
      {"target-tokens", static_cast<double>(metrics.target_tokens)},
      {"images", static_cast<double>(metrics.images)},
      {"forwards", static_cast<double>(metrics.forwards)},
      {"peak-memory-bytes", static_cast<double>(metrics.peak_memory_bytes)},
      {"skipped", metrics.skipped.empty() ? 0.0 : 1.0}};
  if (metrics.params_norm) scalars.emplace_back("params-norm", *metrics.params_norm);
  const auto ranks = static_cast<double>(metrics.ranks);
  if (options.log_throughput_to_tensorboard) {
    const double tflops = metrics.flops / metrics.seconds / 1e12;
    const double samples = static_cast<double>(global_batch_size) / metrics.seconds;
    scalars.insert(scalars.end(), {{"throughput/tflops/device", tflops / ranks},
                                   {"throughput/tflops", tflops},
                                   {"throughput/batches_per_sec", 1 / metrics.seconds},
                                   {"throughput/samples_per_sec", samples}});
  }
  if (options.log_world_size_to_tensorboard) scalars.emplace_back("world-size", ranks);
  if (options.log_memory_to_tensorboard) {
    const Scalars memory = process_memory();
    scalars.insert(scalars.end(), memory.begin(), memory.end());
  }
  return scalars;
}

Scalars scalars_of(const ValidationMetrics& metrics) {
  const std::string loss = std::string(kValidation) + set_suffix(metrics.set);
  Scalars scalars = {{loss, metrics.loss},
                     {loss + std::string(kPerplexity), std::exp(std::min(20.0, metrics.loss))}};
  for (const auto& [name, score] : metrics.scores) {
    scalars.emplace_back(std::string(kScore) + name + set_suffix(metrics.set), score);
  }
  return scalars;
}

bool is_scalar_of_runs(std::string_view name) {
  static const auto kOfSteps = names_of_steps();
  if (kOfSteps.contains(name)) return true;
  if (name.starts_with(kValidation)) {
    if (name.ends_with(kPerplexity)) name.remove_suffix(kPerplexity.size());
    return is_set_suffix(name.substr(std::min(kValidation.size(), name.size())));
  }
  if (!name.starts_with(kScore)) return false;
  const std::string_view rest = name.substr(kScore.size());
  return std::ranges::any_of(score_names(), [&](const std::string& score) {
    return rest.starts_with(score) && is_set_suffix(rest.substr(score.size()));
  });
}

}  // namespace trestle
