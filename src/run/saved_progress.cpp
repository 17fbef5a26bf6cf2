#include "run/saved_progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "recipes/bounds.h"
#include "recipes/train_options.h"
#include "run/checkpoint.h"

namespace trestle {

namespace {

constexpr auto kMostBatch = static_cast<int64_t>(kMostSamples);
constexpr int64_t kMostSets = 1 << 20;  // that a run had, one after another
constexpr const char *kSamples = "consumed_train_samples", *kBlendStart = "blend_start",
                     *kBegan = "began", *kScheduleSamples = "schedule_samples",
                     *kBatch = "train.global_batch_size";

class Numbers {
 public:
  Numbers(const Json& object, std::string_view what, std::string within = {})
      : object_(object), what_(what), within_(std::move(within)) {}

  bool has(const char* key) const { return object_.contains(key); }

  // 0 where it is missing.
  int64_t count(const char* key, int64_t most) const {
    const auto found = object_.find(key);
    return found == object_.end() ? 0 : count_of(*found, key, most);
  }
  std::vector<int64_t> counts(const char* key, int64_t most) const {
    std::vector<int64_t> counts;
    for (const Json& each : list(key)) counts.push_back(count_of(each, key, most));
    return counts;
  }
  double number(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() ? 0 : number_of(*found, key);
  }
  std::vector<double> numbers(const char* key, int64_t most) const {
    const Json all = list(key);
    if (std::ssize(all) > most) {
      refuse(key, fmt::format("{} numbers", all.size()), fmt::format("{} at most", most));
    }
    std::vector<double> numbers;
    for (const Json& each : all) numbers.push_back(number_of(each, key));
    return numbers;
  }
  std::string text(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) return {};
    if (!found->is_string()) refuse(key, excerpt(*found), "a text");
    return found->get<std::string>();
  }
  // Of a number that stands there as text.
  int64_t parsed_count(const char* key, int64_t most) const {
    const std::string said = text(key);
    const Json value = Json::parse(said, nullptr, /*allow_exceptions=*/false);
    return count_of(value.is_number_integer() ? value : Json(said), key, most);
  }
  Numbers inside(const char* key) const {
    const auto value = object_.find(key);
    if (value == object_.end()) refuse(key, "missing", "an object");
    if (!value->is_object()) refuse(key, excerpt(*value), "an object");
    return {*value, what_, within_ + key + "."};
  }
  [[noreturn]] void refuse(const char* key, const std::string& found,
                           const std::string& wanted) const {
    user_error(
        "checkpoint.load={}: {}{} is {}, where a run of its steps has {}; it is damaged, or was "
        "made "
        "by another trestle",
        what_, within_, key, found, wanted);
  }

 private:
  // Not converted before it is known to be one: 2^64 - 1 would be -1.
  int64_t count_of(const Json& value, const char* key, int64_t most) const {
    const bool counts =
        value.is_number_integer() && value >= 0 &&
        (!value.is_number_unsigned() || std::in_range<int64_t>(value.get<uint64_t>()));
    if (!counts || value.get<int64_t>() > most) {
      refuse(key, excerpt(value), fmt::format("a whole number from 0 to {}", most));
    }
    return value.get<int64_t>();
  }
  double number_of(const Json& value, const char* key) const {
    if (!value.is_number()) refuse(key, excerpt(value), "a number");
    return value.get<double>();
  }
  // Empty where it is missing.
  Json list(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) return Json::array();
    if (!found->is_array()) refuse(key, excerpt(*found), "a list");
    return *found;
  }

  const Json& object_;
  std::string_view what_;
  std::string within_;
};

// How many sets there are is compared where they are known (train/resumed_data).
BlendStart blend_start_in(const Numbers& own, int64_t consumed_samples) {
  if (!own.has(kBlendStart)) return {};
  const Numbers start = own.inside(kBlendStart);
  const int64_t sample = start.count("sample", consumed_samples);
  std::vector<int64_t> taken = start.counts("taken", sample);
  int64_t left = sample;
  for (const int64_t each : taken) {
    if (each > left) {
      start.refuse("taken", "more samples in all", fmt::format("{} at most", sample));
    }
    left -= each;
  }
  std::vector<int64_t> numbers = start.counts("numbers", kMostSets);
  if (!numbers.empty() && numbers.size() != taken.size()) {
    start.refuse("numbers", fmt::format("of {} sets", numbers.size()),
                 fmt::format("none or {}", taken.size()));
  }
  return {sample, std::move(taken), std::move(numbers)};
}

// Batches of one size since `began`, and with dataset.overlong=drop also the rows between
// them. Those of before are held likewise when they are gone on from; what a checkpoint of before
// 2026-12 or another program's says cannot be told from a changed batch.
void require_samples_of_batches(const Numbers& own, const Numbers& state,
                                const RunProgress& progress) {
  if (!own.has(kBegan) || !own.has("identity")) return;
  const Numbers values = own.inside("identity").inside("values");
  const auto [start, samples] = progress.began;
  const int64_t step = progress.step, consumed_samples = progress.consumed_samples;
  const int64_t batch = values.parsed_count(kBatch, kMostBatch);
  const int64_t wanted = samples + (step - start) * batch;
  const bool drops = values.text("dataset.overlong") == "drop";
  if (drops ? consumed_samples >= wanted : consumed_samples == wanted) return;
  state.refuse(kSamples, std::to_string(consumed_samples),
               fmt::format("{}{} ({} at step {}, then {} steps of train.global_batch_size={})",
                           wanted, drops ? " or, as dataset.overlong=drop, more" : "", samples,
                           start, step - start, batch));
}

// Of the run that a checkpoint of before December 2026 is of; nothing where it does not say so.
std::optional<int64_t> batch_of(const Numbers& own) {
  if (!own.has("identity")) return std::nullopt;
  const Numbers identity = own.inside("identity");
  if (!identity.has("values") || !identity.inside("values").has(kBatch)) return std::nullopt;
  return identity.inside("values").parsed_count(kBatch, kMostBatch);
}

// What such a checkpoint does not say, so far as its numbers do.
void settle_older(const Numbers& own, RunProgress& progress) {
  const auto batch = batch_of(own);
  if (!batch) return;
  const int64_t samples = progress.consumed_samples;
  if (!own.has(kBegan) && samples == progress.step * *batch) progress.began = {};
  if (!own.has(kScheduleSamples)) {
    progress.schedule_samples = std::min(progress.schedule_start * *batch, samples);
  }
}

}  // namespace

RunProgress progress_in(const Json& own, const Json& train_state, int64_t step,
                        std::string_view what) {
  const Numbers numbers(own, what), state(train_state, what);
  constexpr auto kMostStep = static_cast<int64_t>(kMostSteps);
  if (step < 0 || step > kMostStep) {
    numbers.refuse("its step", std::to_string(step), fmt::format("0 to {}", kMostStep));
  }
  RunProgress progress{.step = step};
  progress.consumed_samples = state.count(kSamples, step * kMostBatch);
  progress.began = {step, progress.consumed_samples};
  if (numbers.has(kBegan)) {
    const Numbers began = numbers.inside(kBegan);
    progress.began.step = began.count("step", step);
    progress.began.samples = began.count("samples", progress.began.step * kMostBatch);
  }
  require_samples_of_batches(numbers, state, progress);
  progress.blend_start = blend_start_in(numbers, progress.consumed_samples);
  progress.skipped = numbers.count("skipped", step);
  progress.skipped_on_end = numbers.count("skipped_on_end", progress.skipped);
  progress.recent_losses = numbers.numbers("recent_losses", kSpikeWindow);
  if (numbers.has("best_step")) {
    progress.best = BestStep{numbers.count("best_step", step), numbers.text("best_metric"),
                             numbers.number("best_value"), numbers.text("best_measured_on")};
  }
  progress.former_best = numbers.counts("former_best", step);
  progress.schedule_start = numbers.count("schedule_start", step);
  progress.schedule_samples = numbers.count(kScheduleSamples, progress.consumed_samples);
  settle_older(numbers, progress);
  progress.skipped_before = numbers.count("skipped_before", progress.skipped);
  if (progress.updates() < 0) {
    numbers.refuse("skipped", std::to_string(progress.skipped),
                   fmt::format("no more than the {} steps behind schedule_start and skipped_before",
                               step - progress.schedule_start));
  }
  return progress;
}

bool takes_same_batches(const RunIdentity& one, const RunIdentity& other) {
  const auto value = [](const RunIdentity& of, const char* key) {
    const auto found = of.values.find(key);
    return found == of.values.end() ? std::string() : found->second;
  };
  return std::ranges::all_of(std::array{"train.global_batch_size", "dataset.overlong"},
                             [&](const char* key) { return value(one, key) == value(other, key); });
}

}  // namespace trestle
