#include "linear/fused.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle {

FusedLayout FusedLayout::share(int64_t ranks) const {
  TORCH_CHECK(groups % ranks == 0, groups, " query groups for ", ranks, " ranks");
  FusedLayout share = *this;
  share.groups /= ranks;
  return share;
}

std::vector<std::string> FusedLayout::parts() const {
  switch (kind) {
    case Kind::kQkv:
      return {"q_proj", "k_proj", "v_proj"};
    case Kind::kGateUp:
      return {"gate_proj", "up_proj"};
    case Kind::kPlain:
      break;
  }
  return {};
}

int64_t FusedLayout::part_size(size_t index, int64_t total) const {
  switch (kind) {
    case Kind::kQkv:
      return groups * head_dim * (index == 0 ? heads_per_group : 1);
    case Kind::kGateUp:
      return total / 2;
    case Kind::kPlain:
      break;
  }
  return total;
}

std::vector<FusedLayout::Run> FusedLayout::runs(int64_t first, int64_t count, int64_t total) const {
  const auto names = parts();
  if (names.empty()) return {{0, first, first, count}};
  // Every period of the fused rows holds a slice of each part: one period in all for gate and up,
  // one a query group for q, k and v.
  const int64_t periods = kind == Kind::kQkv ? groups : 1;
  const int64_t period_rows = total / periods;
  std::vector<Run> runs;
  for (int64_t row = first; row < first + count;) {
    const int64_t period = row / period_rows;
    int64_t start = period * period_rows;
    size_t part = 0;
    while (row >= start + part_size(part, total) / periods) {
      start += part_size(part++, total) / periods;
    }
    const int64_t slice = part_size(part, total) / periods;
    const int64_t rows = std::min(start + slice, first + count) - row;
    runs.push_back({part, period * slice + row - start, row, rows});
    row += rows;
  }
  return runs;
}

std::vector<FusedLayout::Run> FusedLayout::runs_of_part(size_t part, int64_t first, int64_t count,
                                                        int64_t total) const {
  if (parts().empty()) return {{0, first, first, count}};
  const int64_t periods = kind == Kind::kQkv ? groups : 1;
  int64_t before = 0;
  for (size_t i = 0; i < part; ++i) before += part_size(i, total) / periods;
  const int64_t slice = part_size(part, total) / periods;
  std::vector<Run> runs;
  for (int64_t row = first; row < first + count;) {
    const int64_t period = row / slice;
    const int64_t rows = std::min((period + 1) * slice, first + count) - row;
    runs.push_back({part, row, period * (total / periods) + before + row % slice, rows});
    row += rows;
  }
  return runs;
}

at::Tensor FusedLayout::fuse(const std::vector<at::Tensor>& separate, int64_t dim) const {
  TORCH_CHECK(separate.size() == parts().size(), "fuse takes ", parts().size(), " tensors, got ",
              separate.size());
  if (dim < 0) dim += separate[0].dim();
  if (kind == Kind::kGateUp) return at::cat(separate, dim);
  std::vector<at::Tensor> grouped;
  for (const at::Tensor& part : separate) grouped.push_back(part.unflatten(dim, {groups, -1}));
  return at::cat(grouped, dim + 1).flatten(dim, dim + 1);
}

std::vector<at::Tensor> FusedLayout::split(const at::Tensor& fused, int64_t dim) const {
  if (dim < 0) dim += fused.dim();
  std::vector<at::Tensor> separate;
  if (kind == Kind::kGateUp) {
    separate = fused.chunk(2, dim);
  } else {
    TORCH_CHECK(kind == Kind::kQkv, "a plain projection has no parts");
    separate = fused.unflatten(dim, {groups, (heads_per_group + 2) * head_dim})
                   .split_with_sizes({heads_per_group * head_dim, head_dim, head_dim}, dim + 1);
    for (at::Tensor& part : separate) part = part.flatten(dim, dim + 1);
  }
  for (at::Tensor& part : separate) part = part.contiguous();
  return separate;
}

}  // namespace trestle
