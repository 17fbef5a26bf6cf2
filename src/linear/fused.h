// How Megatron lays out the rows of its fused projections, and the way between them and separate
// ones. The bridge fuses and splits weights with this (dim 0), adapters their outputs (last dim):
// one definition for both.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace trestle {

/// The separate projections a fused one is made of, by Hugging Face's names, in the order of
/// `split`.
struct FusedLayout {
  enum class Kind { kPlain, kQkv, kGateUp };
  Kind kind = Kind::kPlain;
  /// For kQkv only: query groups G, query heads per group N, head dim H. Rows lie group by group as
  /// [N*H q, H k, H v] (megatron-core `SelfAttention.get_query_key_value_tensors`).
  int64_t groups = 0;
  int64_t heads_per_group = 0;
  int64_t head_dim = 0;

  static FusedLayout plain() { return {}; }
  static FusedLayout qkv(int64_t groups, int64_t heads_per_group, int64_t head_dim) {
    return {Kind::kQkv, groups, heads_per_group, head_dim};
  }
  /// Rows [F gate, F up].
  static FusedLayout gate_up() { return {Kind::kGateUp}; }

  /// Of one of `ranks` equal shares, which hold whole query groups.
  FusedLayout share(int64_t ranks) const;
  /// {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"} or {}.
  std::vector<std::string> parts() const;
  /// Size of part `index` along the fused axis of `total` rows.
  int64_t part_size(size_t index, int64_t total) const;
  /// Fused rows that lie together in one part too.
  struct Run {
    size_t part;
    int64_t part_row, fused_row, rows;
  };
  /// Fused rows [first, first + count) of `total` as runs, in their order.
  std::vector<Run> runs(int64_t first, int64_t count, int64_t total) const;
  /// Rows [first, first + count) of one part as runs, in their order.
  std::vector<Run> runs_of_part(size_t part, int64_t first, int64_t count, int64_t total) const;
  /// Joins separate tensors, given in the order of parts(), along `dim`.
  at::Tensor fuse(const std::vector<at::Tensor>& separate, int64_t dim) const;
  /// The reverse of fuse; contiguous tensors in the order of parts().
  std::vector<at::Tensor> split(const at::Tensor& fused, int64_t dim) const;
};

}  // namespace trestle
