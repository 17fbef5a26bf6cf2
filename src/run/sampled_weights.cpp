#include "run/sampled_weights.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "megatron/names.h"

namespace trestle {

namespace {

constexpr uint64_t kSmallTensor = 64 << 10;
constexpr int64_t kRows = 4;

// NaN is the same as NaN.
bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.nbytes() == b.nbytes() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

bool same_values(const at::Tensor& ours, const at::Tensor& theirs) {
  const at::ScalarType type =
      ours.element_size() <= theirs.element_size() ? ours.scalar_type() : theirs.scalar_type();
  return same_bytes(ours.to(type).contiguous(), theirs.to(type).contiguous());
}

// A padded vocabulary has more rows than it has tokens.
std::optional<TensorInfo> common_part(const std::string& name, TensorInfo ours,
                                      const TensorInfo& theirs) {
  if (may_be_padded(name) && !ours.shape.empty() && !theirs.shape.empty()) {
    const int64_t rows = std::min(ours.shape[0], theirs.shape[0]);
    std::vector<int64_t> cut = theirs.shape;
    ours.shape[0] = cut[0] = rows;
    return ours.shape == cut ? std::optional(ours) : std::nullopt;
  }
  return ours.shape == theirs.shape ? std::optional(ours) : std::nullopt;
}

}  // namespace

uint64_t size_of(const TensorInfo& info) {
  return static_cast<uint64_t>(info.rows()) * info.row_bytes();
}

std::vector<RowRange> sampled_rows(const TensorInfo& info, bool whole) {
  const int64_t rows = info.rows();
  if (rows == 0 || info.row_bytes() == 0) return {};
  if (whole || size_of(info) <= kSmallTensor || rows <= kRows) return {{0, rows}};
  std::vector<RowRange> ranges;
  for (int64_t i = 0; i < kRows; ++i) ranges.push_back({i * (rows - 1) / (kRows - 1), 1});
  return ranges;
}

std::optional<std::string> weights_difference(const TensorSource& ours,
                                              const TensorSource& theirs) {
  for (const auto& [name, info] : ours.tensors()) {
    const auto found = theirs.tensors().find(name);
    if (found == theirs.tensors().end()) return fmt::format("{} is missing there", name);
    const auto common = common_part(name, info, found->second);
    if (!common) {
      return fmt::format("{} has shape [{}] there, not [{}]", name,
                         fmt::join(found->second.shape, ", "), fmt::join(info.shape, ", "));
    }
    for (const RowRange& range : sampled_rows(*common)) {
      if (same_values(read_range(ours, name, range), read_range(theirs, name, range))) continue;
      return fmt::format("{} has other values there in rows {} to {}", name, range.first,
                         range.first + range.count - 1);
    }
  }
  for (const auto& [name, info] : theirs.tensors()) {
    if (!ours.tensors().contains(name)) return fmt::format("{} is there alone", name);
  }
  return std::nullopt;
}

}  // namespace trestle
