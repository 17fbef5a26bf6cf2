#include "train/resumed_data.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/number.h"
#include "train/training_data.h"

namespace trestle {

namespace {

constexpr const char *kBlend = "dataset.blend", *kPath = "dataset.path_or_dataset";
constexpr size_t kMostSets = size_t{1} << 32;  // behind each that there was
constexpr double kSameShare = 1e-12;           // 7 of 10 and 0.7 of 1

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

// A set that the saved run had.
struct SavedSet {
  double weight = 0;
  std::string identity;  // BlendedDataset::Source
};

// Of kBlendSets; none where it is missing or no such text.
std::vector<SavedSet> listed_sets(const RunIdentity& saved) {
  constexpr double kMostWeight = 1e15;
  std::vector<SavedSet> sets;
  const std::string held = content_in(saved, kBlendSets);
  for (std::string_view text = held; !text.empty(); text.remove_prefix(text.find(';') + 1)) {
    const size_t space = text.find(' '), end = text.find(';');
    double weight = 0;
    if (end == text.npos || space >= end ||
        !number_problem(text.substr(0, space), weight).empty() || !(weight > 0) ||
        weight > kMostWeight) {
      return {};
    }
    sets.push_back({weight, std::string(text.substr(space + 1, end - space - 1))});
  }
  return sets;
}

// For each set of the blend which of those before it is; of equal ones each is taken once.
std::vector<std::optional<size_t>> matched(const BlendedDataset& blend,
                                           const std::vector<SavedSet>& before) {
  std::vector<std::optional<size_t>> found;
  std::vector<bool> is_taken(before.size());
  for (const BlendedDataset::Source& source : blend.sources()) {
    std::optional<size_t>& which = found.emplace_back();
    for (size_t i = 0; i < before.size() && !which; ++i) {
      if (!is_taken[i] && before[i].identity == source.identity) which = i;
    }
    if (which) is_taken[*which] = true;
  }
  return found;
}

// Those of the saved run. A checkpoint of before 2026-11-30 does not list them: they are known
// where they stand as they stood.
std::vector<SavedSet> sets_before(const BlendedDataset& blend, const RunIdentity& saved) {
  std::vector<SavedSet> sets = listed_sets(saved);
  if (!sets.empty()) return sets;
  const auto before = with_weights(blend.parts(), saved_blend(saved));
  if (!before || content_of_blend(blend, *before) != content_in(saved, kBlend)) return {};
  for (size_t i = 0; i < before->size(); ++i) {
    sets.push_back({(*before)[i].weight, blend.sources()[i].identity});
  }
  return sets;
}

std::string note_of_weights(const std::vector<BlendPart>& before,
                            const std::vector<BlendPart>& parts, const BlendStart& start) {
  return fmt::format(
      "dataset.blend: from sample {} on its sets weigh {} of all (there: {}); each goes on behind "
      "what it gave, {} samples",
      start.sample, shares_text(parts), shares_text(before), fmt::join(start.taken, ", "));
}

std::string note_of_sets(const BlendedDataset& blend, const std::vector<std::optional<size_t>>& was,
                         size_t gone, const BlendStart& start) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < was.size(); ++i) {
    const std::string& path = blend.sources()[i].member.name.path;
    texts.push_back(
        was[i] ? fmt::format("{} goes on behind the {} samples that it gave", path, start.taken[i])
               : fmt::format("{} begins at its first row", path));
  }
  if (gone > 0) texts.push_back(fmt::format("sets that are no longer there: {}", gone));
  return fmt::format("dataset.blend: from sample {} on it is of other sets: {}", start.sample,
                     fmt::join(texts, "; "));
}

// Of sets that are others, or weigh otherwise, from here on.
ResumedOrder changed(const BlendedDataset& blend, const std::vector<SavedSet>& before,
                     const RunProgress& progress) {
  ResumedOrder order;
  order.start.sample = progress.consumed_samples;
  const auto was = matched(blend, before);
  const auto stayed = std::ranges::count_if(was, [](const auto& each) { return each.has_value(); });
  if (stayed == 0) {
    order.notes.push_back(fmt::format(
        "dataset.blend: other sets than the run was saved with: from sample {} on each begins at "
        "its first row, so rows that it learnt from may come again",
        order.start.sample));
    return order;
  }
  std::vector<BlendPart> weights;
  for (const SavedSet& set : before) weights.push_back({1, set.weight});
  const std::vector<int64_t> gave =
      BlendOrder(weights, 0, false, progress.blend_start).counts(order.start.sample);
  std::vector<int64_t> numbers = progress.blend_start.numbers;
  for (size_t i = numbers.size(); i < before.size(); ++i) numbers.push_back(std::ssize(numbers));
  int64_t next = std::ranges::max(numbers) + 1;
  for (const auto& which : was) {
    order.start.taken.push_back(which ? gave[*which] : 0);
    order.start.numbers.push_back(which ? numbers[*which] : next++);
  }
  const size_t gone = before.size() - static_cast<size_t>(stayed);
  const bool same_sets = gone == 0 && was.size() == before.size();
  order.notes.push_back(same_sets ? note_of_weights(weights, blend.parts(), order.start)
                                  : note_of_sets(blend, was, gone, order.start));
  return order;
}

ResumedOrder order_of_blend(const TrainConfig& config, const BlendedDataset& blend,
                            const RunIdentity& saved, const RunIdentity& now,
                            const RunProgress& progress) {
  const bool is_same = content_in(saved, kBlend) == content_in(now, kBlend);
  const std::vector<SavedSet> before = sets_before(blend, saved);
  const size_t counted = progress.blend_start.taken.size();
  const size_t sets = is_same ? blend.parts().size() : before.size();
  if (counted != 0 && sets != 0 && counted != sets) {
    user_error(
        "checkpoint.load={} counts samples of {} sets, but its dataset.blend has {}; was it made "
        "by another trestle?",
        config.checkpoint.load, counted, sets);
  }
  return is_same ? ResumedOrder{progress.blend_start} : changed(blend, before, progress);
}

void keep_order(TrainConfig& config, BlendedDataset& blend, const RunIdentity& saved) {
  const auto was = matched(blend, listed_sets(saved));
  std::vector<size_t> order(was.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return was[i].value_or(kMostSets + i); });
  if (std::ranges::is_sorted(order)) return;
  blend.reorder(order);
  std::vector<BlendSource> sources;
  for (const size_t place : order) sources.push_back(config.dataset.blend.at(place));
  config.dataset.blend = std::move(sources);
}

}  // namespace

void keep_order_and_weights(TrainConfig& config, Dataset& dataset, const RunIdentity& saved) {
  auto* blend = dynamic_cast<BlendedDataset*>(&dataset);
  if (blend == nullptr) return;
  keep_order(config, *blend, saved);
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
