#include "model/packing.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "model/host_input.h"

namespace trestle {

namespace {

// Rows of padding cost as much as true ones and attention is quadratic in them, while each run
// costs kernel calls.
constexpr double kMostPadded = 1.25;  // padded rows for each true one

// Where the runs of neighbours of like length end.
std::vector<size_t> run_ends(const std::vector<int64_t>& lengths) {
  std::vector<size_t> ends;
  int64_t longest = 0, tokens = 0, count = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int64_t padded = std::max(longest, lengths[i]) * (count + 1);
    if (count > 0 &&
        static_cast<double>(padded) > kMostPadded * static_cast<double>(tokens + lengths[i])) {
      ends.push_back(i);
      longest = tokens = count = 0;
    }
    longest = std::max(longest, lengths[i]);
    tokens += lengths[i];
    ++count;
  }
  ends.push_back(lengths.size());
  return ends;
}

}  // namespace

Packing::Packing(std::vector<int64_t> lengths) : lengths_(std::move(lengths)) {
  std::vector<int32_t> offsets = {0};
  for (const int64_t length : lengths_) {
    TORCH_CHECK(length > 0, "a packed sequence has no tokens");
    tokens_ += length;
    longest_ = std::max(longest_, length);
    offsets.push_back(static_cast<int32_t>(tokens_));
  }
  TORCH_CHECK(tokens_ <= std::numeric_limits<int32_t>::max(), tokens_, " tokens in one pack");
  // A copy of the host's memory, and no tensor made by the model: tests/bridge/test_device.cpp.
  offsets_ = at::from_blob(offsets.data(), {std::ssize(offsets)}, at::kInt).clone();
  if (uniform()) return;
  std::vector<int64_t> gather, scatter;
  int64_t start = 0;
  for (int64_t b = 0; b < sequences(); ++b) {
    const int64_t length = lengths_[static_cast<size_t>(b)];
    for (int64_t i = 0; i < longest_; ++i) gather.push_back(start + std::min(i, length - 1));
    for (int64_t i = 0; i < length; ++i) scatter.push_back(b * longest_ + i);
    start += length;
  }
  gather_ = at::tensor(gather, at::kLong);
  scatter_ = at::tensor(scatter, at::kLong);
  const std::vector<size_t> ends = run_ends(lengths_);
  if (ends.size() == 1) return;
  size_t first = 0;
  for (const size_t end : ends) {
    const auto begin = lengths_.begin();
    runs_.emplace_back(std::vector(begin + static_cast<std::ptrdiff_t>(first),
                                   begin + static_cast<std::ptrdiff_t>(end)));
    first = end;
  }
}

at::Tensor Packing::pad(const at::Tensor& packed) const {
  const at::Tensor rows = uniform() ? packed : packed.index_select(0, gather_.to(packed.device()));
  return rows.unflatten(0, {sequences(), longest_});
}

at::Tensor Packing::unpad(const at::Tensor& padded) const {
  const at::Tensor rows = padded.flatten(0, 1);
  return uniform() ? rows : rows.index_select(0, scatter_.to(padded.device()));
}

Packing Packing::to(at::Device device) const {
  Packing moved = *this;
  if (offsets_.defined()) moved.offsets_ = to_device(offsets_, device);
  if (uniform()) return moved;
  moved.gather_ = to_device(gather_, device);
  moved.scatter_ = to_device(scatter_, device);
  for (Packing& run : moved.runs_) run = run.to(device);
  return moved;
}

at::Tensor Packing::positions() const {
  std::vector<at::Tensor> parts;
  for (const int64_t length : lengths_) parts.push_back(at::arange(length, at::kLong));
  return at::cat(parts);
}

}  // namespace trestle
