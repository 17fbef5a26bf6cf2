#include "train/resumed_data.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "train/training_data.h"

namespace trestle {

namespace {

constexpr const char *kBlend = "dataset.blend", *kPath = "dataset.path_or_dataset";
constexpr double kSameShare = 1e-12;  // 7 of 10 and 0.7 of 1

// What a saved run's dataset.blend says; nothing where it had none.
std::vector<BlendSource> saved_blend(const RunIdentity& saved) {
  std::vector<BlendSource> sources;
  const auto found = saved.values.find(kBlend);
  if (found != saved.values.end()) parse_value(kBlend, found->second, sources);
  return sources;
}

// The parts with the weights of `sources`; nothing where they are not as many.
std::optional<std::vector<BlendPart>> with_weights(std::vector<BlendPart> parts,
                                                   const std::vector<BlendSource>& sources) {
  if (parts.size() != sources.size()) return std::nullopt;
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].weight = sources[i].weight.value_or(static_cast<double>(parts[i].rows));
  }
  return parts;
}

std::string content_in(const RunIdentity& identity, const char* key) {
  const auto found = identity.contents.find(key);
  return found == identity.contents.end() ? "" : found->second;
}

std::string shares_text(const std::vector<BlendPart>& parts) {
  std::vector<std::string> texts;
  for (const double share : shares_of(parts)) texts.push_back(fmt::format("{:.4g}", share));
  return fmt::format("{}", fmt::join(texts, ", "));
}

// Of the same sets, which weigh otherwise from here on.
ResumedOrder reweighed(const std::vector<BlendPart>& before, const std::vector<BlendPart>& parts,
                       const RunProgress& progress) {
  ResumedOrder order;
  order.start.sample = progress.consumed_samples;
  order.start.taken =
      BlendOrder(before, 0, false, progress.blend_start).counts(progress.consumed_samples);
  order.notes.push_back(fmt::format(
      "dataset.blend: from sample {} on its sets weigh {} of all (there: {}); each goes on behind "
      "what it gave, {} samples",
      order.start.sample, shares_text(parts), shares_text(before),
      fmt::join(order.start.taken, ", ")));
  return order;
}

ResumedOrder order_of_blend(const TrainConfig& config, const BlendedDataset& blend,
                            const RunIdentity& saved, const RunIdentity& now,
                            const RunProgress& progress) {
  const std::vector<BlendPart> parts = blend.parts();
  const auto before = with_weights(parts, saved_blend(saved));
  const std::string content = content_in(saved, kBlend);
  const bool same_blend = content == content_in(now, kBlend);
  if (same_blend || (before && content_of_blend(blend, *before) == content)) {
    const size_t counted = progress.blend_start.taken.size();
    if (counted != 0 && counted != parts.size()) {
      user_error(
          "checkpoint.load={} counts samples of {} sets, but its dataset.blend has {}; was it made "
          "by another trestle?",
          config.checkpoint.load, counted, parts.size());
    }
    if (same_blend) return {progress.blend_start};
    return reweighed(*before, parts, progress);
  }
  return {{.sample = progress.consumed_samples},
          {fmt::format("dataset.blend: other sets than the run was saved with: from sample {} on "
                       "each begins at its first row, so rows that it learnt from may come again",
                       progress.consumed_samples)}};
}

}  // namespace

void keep_weights(TrainConfig& config, Dataset& dataset, const RunIdentity& saved) {
  auto* blend = dynamic_cast<BlendedDataset*>(&dataset);
  if (blend == nullptr) return;
  const std::vector<BlendSource> sources = saved_blend(saved);
  const auto before = with_weights(blend->parts(), sources);
  if (!before) return;
  const std::vector<double> ours = shares_of(blend->parts()), theirs = shares_of(*before);
  if (!std::ranges::equal(ours, theirs, [](double a, double b) {
        return std::abs(a - b) <= kSameShare * std::max(a, b);
      })) {
    return;
  }
  std::vector<double> weights;
  for (size_t i = 0; i < sources.size(); ++i) {
    weights.push_back((*before)[i].weight);
    config.dataset.blend[i].weight = sources[i].weight;
  }
  blend->set_weights(weights);
}

ResumedOrder resumed_order(const TrainConfig& config, const Dataset& dataset,
                           const RunIdentity& saved, const RunIdentity& now,
                           const RunProgress& progress) {
  ResumedOrder order;
  if (const auto* blend = dynamic_cast<const BlendedDataset*>(&dataset)) {
    order = order_of_blend(config, *blend, saved, now, progress);
  } else if (content_in(saved, kPath) != content_in(now, kPath)) {
    order.notes.push_back(
        fmt::format("{}: other data than the run was saved with: it goes on with sample {} of "
                    "their order, so rows that it learnt from may come again",
                    kPath, progress.consumed_samples));
  }
  for (const char* key : {"dataset.shuffle", "rng.seed"}) {
    const auto before = saved.values.find(key);
    if (before == saved.values.end() || before->second == now.values.at(key)) continue;
    if (key == std::string_view("rng.seed") && !config.dataset.shuffle) continue;
    order.notes.push_back(fmt::format(
        "{}={} (there: {}): from sample {} on rows come in another order, so some that the run "
        "learnt from may come again",
        key, now.values.at(key), before->second, progress.consumed_samples));
  }
  return order;
}

}  // namespace trestle
