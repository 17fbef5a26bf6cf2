#include "parallel/share.h"

#include <ATen/ATen.h>

namespace trestle {

int64_t axis_of(Split split) { return split == Split::kColumns ? 1 : 0; }

std::vector<ShareRun> share_runs(Split split, int64_t whole, RankOf who) {
  if (split == Split::kReplicated) return {{0, 0, whole}};
  const int64_t halves = split == Split::kHalvedRows ? 2 : 1;
  const int64_t count = whole / halves / who.ranks;
  TORCH_CHECK(count * halves * who.ranks == whole, whole, " does not divide into ",
              halves * who.ranks, " parts");
  std::vector<ShareRun> runs;
  for (int64_t half = 0; half < halves; ++half) {
    runs.push_back({half * whole / halves + who.rank * count, half * count, count});
  }
  return runs;
}

std::vector<int64_t> share_sizes(at::IntArrayRef whole, Split split, int64_t ranks) {
  std::vector<int64_t> sizes = whole.vec();
  if (split == Split::kReplicated || ranks == 1) return sizes;
  int64_t& cut = sizes.at(static_cast<size_t>(axis_of(split)));
  TORCH_CHECK(cut % (split == Split::kHalvedRows ? 2 * ranks : ranks) == 0, "an axis of ", cut,
              " does not divide among ", ranks, " ranks");
  cut /= ranks;
  return sizes;
}

std::vector<int64_t> whole_sizes(at::IntArrayRef share, Split split, int64_t ranks) {
  std::vector<int64_t> sizes = share.vec();
  if (split != Split::kReplicated) sizes.at(static_cast<size_t>(axis_of(split))) *= ranks;
  return sizes;
}

at::Tensor share_of(const at::Tensor& whole, Split split, RankOf who) {
  if (split == Split::kReplicated || who.ranks == 1) return whole;
  const int64_t axis = axis_of(split);
  std::vector<at::Tensor> parts;
  for (const ShareRun& run : share_runs(split, whole.size(axis), who)) {
    parts.push_back(whole.narrow(axis, run.whole_first, run.count));
  }
  return parts.size() == 1 ? parts.front() : at::cat(parts, axis);
}

}  // namespace trestle
