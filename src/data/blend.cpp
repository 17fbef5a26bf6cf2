#include "data/blend.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "data/content.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kSeedStep = 0x9E3779B97F4A7C15;  // so that sets of one size have other orders

}  // namespace

std::vector<double> shares_of(const std::vector<BlendPart>& parts) {
  double sum = 0;
  for (const BlendPart& part : parts) sum += part.weight;
  std::vector<double> shares;
  for (const BlendPart& part : parts) shares.push_back(part.weight / sum);
  return shares;
}

BlendOrder::BlendOrder(const std::vector<BlendPart>& parts, uint64_t seed, bool shuffle,
                       BlendStart start)
    : parts_(parts),
      shares_(shares_of(parts)),
      start_(std::move(start)),
      drawn_(start_.sample),
      counts_(parts.size(), 0) {
  TORCH_CHECK(start_.taken.empty() || start_.taken.size() == parts.size(), "taken of each part");
  TORCH_CHECK(start_.numbers.empty() || start_.numbers.size() == parts.size(), "n of each part");
  int64_t rows = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    first_.push_back(rows);
    rows += parts[i].rows;
    const size_t n = start_.numbers.empty() ? i : static_cast<size_t>(start_.numbers[i]);
    orders_.emplace_back(parts[i].rows, seed + n * kSeedStep, shuffle);
  }
}

size_t BlendOrder::next_part() const {
  const auto drawn = static_cast<double>(std::max<int64_t>(drawn_ - start_.sample, 1));
  size_t best = 0;
  double most = 0;
  for (size_t i = 0; i < shares_.size(); ++i) {
    const double missing = shares_[i] * drawn - static_cast<double>(counts_[i]);
    if (i > 0 && missing <= most) continue;
    most = missing;
    best = i;
  }
  return best;
}

void BlendOrder::go_to(int64_t sample) {
  TORCH_CHECK(sample >= start_.sample, "sample ", sample, " lies before these weights");
  if (sample < drawn_) {
    drawn_ = start_.sample;
    std::ranges::fill(counts_, 0);
  }
  if (parts_.size() == 1) {
    counts_[0] = sample - start_.sample;
    drawn_ = sample;
  }
  for (; drawn_ < sample; ++drawn_) ++counts_[next_part()];
}

int64_t BlendOrder::row(int64_t sample) {
  go_to(sample);
  const size_t part = next_part();
  return first_[part] + orders_[part].row(taken_of(part) + counts_[part]);
}

std::vector<int64_t> BlendOrder::counts(int64_t samples) {
  go_to(samples);
  std::vector<int64_t> counts = counts_;
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += taken_of(i);
  return counts;
}

int64_t BlendOrder::samples_for_all() const {
  if (parts_.size() == 1) return parts_[0].rows;
  double most = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    // The order is two samples behind a share at most, as far as was measured; one more is for the
    // last row itself.
    most = std::max(most, (static_cast<double>(parts_[i].rows) + 3) / shares_[i]);
  }
  return static_cast<int64_t>(std::min(std::ceil(most), 1e15));
}

BlendedDataset::BlendedDataset(const std::vector<BlendMember>& members) {
  for (const BlendMember& member : members) {
    sources_.push_back({member, make_dataset(member.maker, member.name), {}});
    Source& source = sources_.back();
    source.identity =
        fmt::format("{} {}", member.maker, content_without_names(source.dataset->files()));
    const int64_t rows = source.dataset->size();
    if (rows == 0) user_error("{}: {} has no rows", member.name.key, member.name.path);
    parts_.push_back({rows, member.weight.value_or(static_cast<double>(rows))});
    size_ += rows;
  }
}

BlendedDataset::Place BlendedDataset::place_of(int64_t index) const {
  for (const Source& source : sources_) {
    if (index < source.dataset->size()) return {&source, index};
    index -= source.dataset->size();
  }
  TORCH_CHECK(false, "row past the end");
}

std::vector<fs::path> BlendedDataset::files() const {
  std::vector<fs::path> all;
  for (const Source& source : sources_) {
    const std::vector<fs::path> files = source.dataset->files();
    all.insert(all.end(), files.begin(), files.end());
  }
  return all;
}

Conversation BlendedDataset::row(int64_t index) const {
  const Place place = place_of(index);
  return place.source->dataset->row(place.row);
}

Json BlendedDataset::ground_truth(int64_t index) const {
  const Place place = place_of(index);
  return place.source->dataset->ground_truth(place.row);
}

std::map<std::string, int64_t> BlendedDataset::unknown_columns() const {
  std::map<std::string, int64_t> all;
  for (const Source& source : sources_) {
    for (const auto& [column, rows] : source.dataset->unknown_columns()) all[column] += rows;
  }
  return all;
}

std::string BlendedDataset::row_name(int64_t index, const std::string&) const {
  const Place place = place_of(index);
  return place.source->dataset->row_name(place.row, place.source->member.name.path);
}

const std::string& BlendedDataset::Source::named_identity() const {
  if (!named) named = fmt::format("{} {}", member.maker, content_of(dataset->files()));
  return *named;
}

void BlendedDataset::set_weights(const std::vector<double>& weights) {
  TORCH_CHECK(weights.size() == parts_.size(), "a weight of each set");
  for (size_t i = 0; i < weights.size(); ++i) parts_[i].weight = weights[i];
}

void BlendedDataset::reorder(const std::vector<size_t>& order) {
  TORCH_CHECK(order.size() == parts_.size(), "a place of each set");
  std::vector<Source> sources;
  std::vector<BlendPart> parts;
  for (const size_t place : order) {
    sources.push_back(std::move(sources_.at(place)));
    parts.push_back(parts_[place]);
  }
  sources_ = std::move(sources);
  parts_ = std::move(parts);
}

std::vector<std::string> BlendedDataset::describe(int64_t samples, const BlendStart& start) const {
  const std::vector<double> shares = shares_of(parts_);
  const std::vector<int64_t> counts =
      BlendOrder(parts_, 0, false, start).counts(std::max(samples, start.sample));
  const int64_t all = std::max(samples, start.sample);
  std::vector<std::string> lines;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const Dataset& dataset = *sources_[i].dataset;
    lines.push_back(fmt::format(
        "{:.4g} of {} ({} rows; {} of {} samples, {:.3g} passes)", shares[i],
        describe_files(dataset, sources_[i].member.name.path), dataset.size(), counts[i], all,
        static_cast<double>(counts[i]) / static_cast<double>(dataset.size())));
  }
  const int64_t of_others = all - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  if (of_others > 0) {
    lines.push_back(
        fmt::format("given before sample {} and counted with none of these sets: {} of {} samples",
                    start.sample, of_others, all));
  }
  return lines;
}

}  // namespace trestle
