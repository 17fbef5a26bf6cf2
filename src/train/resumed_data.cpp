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

bool is_same_share(double one, double other) {
  return std::abs(one - other) <= kSameShare * std::max(one, other);
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

// A set that the run has now.
struct PresentSet {
  std::string path, identity, named_identity;  // BlendedDataset::Source
  double share = 1;                            // of all weights

  bool is(const SavedSet& saved) const {
    return saved.identity == identity || saved.identity == named_identity;
  }
};

std::vector<PresentSet> sets_of(const BlendedDataset& blend) {
  const std::vector<double> shares = shares_of(blend.parts());
  std::vector<PresentSet> sets;
  for (const BlendedDataset::Source& source : blend.sources()) {
    sets.push_back(
        {source.member.name.path, source.identity, source.named_identity(), shares[sets.size()]});
  }
  return sets;
}

// A run of one set is a blend of that one.
std::vector<PresentSet> sets_of(const TrainConfig& config, const Dataset& dataset,
                                const RunIdentity& now) {
  if (const auto* blend = dynamic_cast<const BlendedDataset*>(&dataset)) return sets_of(*blend);
  const auto identity = [&](const std::map<std::string, std::string>& contents) {
    const auto found = contents.find(kPath);
    return fmt::format("{} {}", config.dataset.maker_name,
                       found == contents.end() ? "" : found->second);
  };
  return {{config.dataset.path_or_dataset, identity(now.contents), identity(now.named_contents)}};
}

// For each set which of those before it is. Of equal ones each is taken once, by the one that has
// its weight if there is one.
std::vector<std::optional<size_t>> matched(const std::vector<PresentSet>& sets,
                                           const std::vector<SavedSet>& before) {
  std::vector<std::optional<size_t>> found(sets.size());
  std::vector<bool> is_taken(before.size());
  double sum = 0;
  for (const SavedSet& each : before) sum += each.weight;
  for (const bool by_weight : {true, false}) {
    for (size_t n = 0; n < sets.size(); ++n) {
      for (size_t i = 0; i < before.size() && !found[n]; ++i) {
        if (is_taken[i] || !sets[n].is(before[i])) continue;
        if (by_weight && !is_same_share(sets[n].share, before[i].weight / sum)) continue;
        found[n] = i;
        is_taken[i] = true;
      }
    }
  }
  return found;
}

// Those of the saved run. A checkpoint of before 2026-11-30 does not list those of a blend: they
// are known where they stand as they stood.
std::vector<SavedSet> sets_before(const Dataset& dataset, const RunIdentity& saved) {
  constexpr const char* kMaker = "dataset.maker_name";
  const std::string one = content_in(saved, kPath);
  if (!one.empty() && saved.values.contains(kMaker)) {
    return {{1, fmt::format("{} {}", saved.values.at(kMaker), one)}};
  }
  std::vector<SavedSet> sets = listed_sets(saved);
  const auto* blend = dynamic_cast<const BlendedDataset*>(&dataset);
  if (!sets.empty() || blend == nullptr) return sets;
  const auto before = with_weights(blend->parts(), saved_blend(saved));
  if (!before || named_content_of_blend(*blend, *before) != content_in(saved, kBlend)) return {};
  for (size_t i = 0; i < before->size(); ++i) {
    sets.push_back({(*before)[i].weight, blend->sources()[i].named_identity()});
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

std::string note_of_sets(const char* key, const std::vector<PresentSet>& sets,
                         const std::vector<std::optional<size_t>>& was, size_t gone,
                         const BlendStart& start) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < was.size(); ++i) {
    const std::string& path = sets[i].path;
    texts.push_back(
        was[i] ? fmt::format("{} goes on behind the {} samples that it gave", path, start.taken[i])
               : fmt::format("{} begins at its first row", path));
  }
  if (gone > 0) texts.push_back(fmt::format("sets that are no longer there: {}", gone));
  return fmt::format("{}: from sample {} on it is of other sets: {}", key, start.sample,
                     fmt::join(texts, "; "));
}

// Where no set of the saved run is left.
ResumedOrder all_others(bool is_blend, int64_t samples) {
  if (is_blend) {
    return {{.sample = samples},
            {fmt::format("dataset.blend: other sets than the run was saved with: from sample {} on "
                         "each begins at its first row, so rows that it learnt from may come again",
                         samples)}};
  }
  return {{},
          {fmt::format("{}: other data than the run was saved with: it goes on with sample {} of "
                       "their order, so rows that it learnt from may come again",
                       kPath, samples)}};
}

// Of sets that are others, or weigh otherwise, from here on.
ResumedOrder changed(const Dataset& dataset, const std::vector<PresentSet>& sets,
                     const std::vector<SavedSet>& before, const RunProgress& progress) {
  const bool is_blend = dynamic_cast<const BlendedDataset*>(&dataset) != nullptr;
  const auto was = matched(sets, before);
  const auto stayed = std::ranges::count_if(was, [](const auto& each) { return each.has_value(); });
  if (stayed == 0) return all_others(is_blend, progress.consumed_samples);
  ResumedOrder order;
  order.start.sample = progress.consumed_samples;
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
  order.notes.push_back(
      same_sets ? note_of_weights(weights, dataset.parts(), order.start)
                : note_of_sets(is_blend ? kBlend : kPath, sets, was, gone, order.start));
  return order;
}

ResumedOrder order_of_sets(const TrainConfig& config, const Dataset& dataset,
                           const RunIdentity& saved, const RunIdentity& now,
                           const RunProgress& progress) {
  const char* key = now.contents.contains(kBlend) ? kBlend : kPath;
  const bool is_same = now.has_content(key, content_in(saved, key));
  const std::vector<SavedSet> before = sets_before(dataset, saved);
  const size_t counted = progress.blend_start.taken.size();
  const size_t sets = is_same ? dataset.parts().size() : before.size();
  if (counted != 0 && sets != 0 && counted != sets) {
    user_error(
        "checkpoint.load={} counts samples of {} sets, but its dataset.blend has {}; was it made "
        "by another trestle?",
        config.checkpoint.load, counted, sets);
  }
  if (is_same) return {progress.blend_start};
  return changed(dataset, sets_of(config, dataset, now), before, progress);
}

void keep_order(TrainConfig& config, BlendedDataset& blend, const RunIdentity& saved) {
  const auto was = matched(sets_of(blend), listed_sets(saved));
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
  if (!std::ranges::equal(ours, theirs, is_same_share)) return;
  std::vector<double> weights;
  for (size_t i = 0; i < sources.size(); ++i) {
    weights.push_back((*before)[i].weight);
    config.dataset.blend[i].weight = sources[i].weight;
  }
  blend->set_weights(weights);
}

void name_data_as(const TrainConfig& config, const Dataset& dataset, const RunIdentity& saved,
                  RunIdentity& now) {
  now.named_contents = named_content_of_training_data(dataset);
  const bool is_blend = now.contents.contains(kBlend);
  const char *key = is_blend ? kBlend : kPath, *other = is_blend ? kPath : kBlend;
  if (!content_in(saved, key).empty() || dataset.parts().size() != 1) return;
  const std::vector<SavedSet> before = sets_before(dataset, saved);
  if (before.size() != 1 || !sets_of(config, dataset, now).front().is(before.front())) return;
  now.named_contents[key] = "";
  now.named_contents[other] = content_in(saved, other);
}

ResumedOrder resumed_order(const TrainConfig& config, const Dataset& dataset,
                           const RunIdentity& saved, const RunIdentity& now,
                           const RunProgress& progress) {
  ResumedOrder order = order_of_sets(config, dataset, saved, now, progress);
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
