#include "data/blend.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kSeedStep = 0x9E3779B97F4A7C15;  // so that sets of one size have other orders

std::vector<double> shares_of(const std::vector<BlendPart>& parts) {
  double sum = 0;
  for (const BlendPart& part : parts) sum += part.weight;
  std::vector<double> shares;
  for (const BlendPart& part : parts) shares.push_back(part.weight / sum);
  return shares;
}

}  // namespace

BlendOrder::BlendOrder(const std::vector<BlendPart>& parts, uint64_t seed, bool shuffle)
    : parts_(parts), shares_(shares_of(parts)), counts_(parts.size(), 0) {
  int64_t rows = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    first_.push_back(rows);
    rows += parts[i].rows;
    orders_.emplace_back(parts[i].rows, seed + i * kSeedStep, shuffle);
  }
}

size_t BlendOrder::next_part() const {
  const auto drawn = static_cast<double>(std::max<int64_t>(drawn_, 1));
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
  if (sample < drawn_) {
    drawn_ = 0;
    std::ranges::fill(counts_, 0);
  }
  if (parts_.size() == 1) counts_[0] = drawn_ = sample;
  for (; drawn_ < sample; ++drawn_) ++counts_[next_part()];
}

int64_t BlendOrder::row(int64_t sample) {
  go_to(sample);
  const size_t part = next_part();
  return first_[part] + orders_[part].row(counts_[part]);
}

std::vector<int64_t> BlendOrder::counts(int64_t samples) {
  go_to(samples);
  return counts_;
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
    sources_.push_back({member, make_dataset(member.maker, member.name)});
    const int64_t rows = sources_.back().dataset->size();
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

std::vector<std::string> BlendedDataset::describe(int64_t samples) const {
  const std::vector<double> shares = shares_of(parts_);
  const std::vector<int64_t> counts = BlendOrder(parts_, 0, false).counts(samples);
  std::vector<std::string> lines;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const Dataset& dataset = *sources_[i].dataset;
    lines.push_back(fmt::format(
        "{:.4g} of {} ({} rows; {} of {} samples, {:.3g} passes)", shares[i],
        describe_files(dataset, sources_[i].member.name.path), dataset.size(), counts[i], samples,
        static_cast<double>(counts[i]) / static_cast<double>(dataset.size())));
  }
  return lines;
}

}  // namespace trestle
