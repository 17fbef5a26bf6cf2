#include "megatron/rank_share.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "megatron/names.h"

namespace trestle {

RankShare::RankShare(const TensorSource& whole, RankOf who, int64_t vocabulary)
    : whole_(whole), who_(who) {
  for (const auto& [name, info] : whole.tensors()) {
    const Split split = split_of(name);
    TensorInfo share = info;
    if (split != Split::kReplicated) {
      const auto axis = static_cast<size_t>(axis_of(split));
      const int64_t halves = split == Split::kHalvedRows ? 2 : 1;
      if (info.shape.size() <= axis || info.packed != nullptr) {
        user_error("tensor {} is no matrix and cannot be shared among {} tensor ranks", name,
                   who.ranks);
      }
      int64_t& size = share.shape[axis];
      if (may_be_padded(name)) size = std::min(size, vocabulary);
      if (size % (halves * who.ranks) != 0) {
        user_error(
            "tensor {} has {} {}, which {} tensor ranks cannot share evenly; take a "
            "model.tensor_model_parallel_size that divides {}",
            name, size, axis == 1 ? "columns" : "rows", who.ranks, size / halves);
      }
      size /= who.ranks;
    }
    tensors_[name] = std::move(share);
  }
}

std::vector<ShareRun> RankShare::runs_of(const std::string& name) const {
  const Split split = split_of(name);
  const std::vector<int64_t>& shape = tensors_.at(name).shape;
  if (split == Split::kReplicated) return {{0, 0, tensors_.at(name).rows()}};
  return share_runs(split, shape[static_cast<size_t>(axis_of(split))] * who_.ranks, who_);
}

template <class Read>
void RankShare::read_cut(const std::string& name, RowRange range, int64_t element_size,
                         std::byte* out, const Read& read) const {
  const std::vector<ShareRun> runs = runs_of(name);
  if (split_of(name) == Split::kColumns) {
    const TensorInfo& whole = whole_.tensors().at(name);
    const size_t row = static_cast<size_t>(whole.shape[1] * element_size);
    const size_t skipped = static_cast<size_t>(runs.front().whole_first * element_size);
    const size_t kept = static_cast<size_t>(runs.front().count * element_size);
    std::vector<std::byte> rows(row * static_cast<size_t>(range.count));
    read(range, rows.data());
    for (size_t i = 0; i < static_cast<size_t>(range.count); ++i) {
      std::memcpy(out + i * kept, rows.data() + i * row + skipped, kept);
    }
    return;
  }
  const auto row_bytes = static_cast<int64_t>(
      tensors_.at(name).row_bytes() / c10::elementSize(tensors_.at(name).dtype) * element_size);
  for (const ShareRun& run : runs) {
    const int64_t first = std::max(range.first, run.share_first);
    const int64_t last = std::min(range.first + range.count, run.share_first + run.count);
    if (first >= last) continue;
    read(RowRange{run.whole_first + first - run.share_first, last - first},
         out + (first - range.first) * row_bytes);
  }
}

void RankShare::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto size = static_cast<int64_t>(c10::elementSize(tensors_.at(name).dtype));
  read_cut(name, range, size, out,
           [&](RowRange rows, std::byte* into) { whole_.read_rows(name, rows, into); });
}

at::Tensor RankShare::read(const std::string& name) const {
  return split_of(name) == Split::kReplicated ? whole_.read(name) : read_all_rows(*this, name);
}

void RankShare::read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const {
  read_cut(name, range, 1, out,
           [&](RowRange rows, std::byte* into) { whole_.read_fp8_rows(name, rows, into); });
}

std::optional<Fp8Scales> RankShare::fp8_scales(const std::string& name) const {
  auto scales = whole_.fp8_scales(name);
  if (!scales) return scales;
  const std::vector<ShareRun> runs = runs_of(name);
  if (split_of(name) != Split::kColumns) {
    std::vector<at::Tensor> rows;
    for (const ShareRun& run : runs) {
      rows.push_back(scales->grid_row.narrow(0, run.whole_first, run.count));
    }
    scales->grid_row = at::cat(rows);
    return scales;
  }
  if (scales->values.size(1) == 1) return scales;
  const ShareRun& run = runs.front();
  if (run.whole_first % scales->columns != 0) {
    user_error(
        "tensor {} has an FP8 scale for every {} columns, which {} tensor ranks of {} columns each "
        "would cut; set peft.base_bits=16, or a model.tensor_model_parallel_size that keeps whole "
        "blocks",
        name, scales->columns, who_.ranks, run.count);
  }
  scales->values = scales->values
                       .narrow(1, run.whole_first / scales->columns,
                               (run.count + scales->columns - 1) / scales->columns)
                       .contiguous();
  return scales;
}

}  // namespace trestle
