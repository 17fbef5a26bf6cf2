#include "formats/tensor_source.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstring>

namespace trestle {

int64_t TensorInfo::rows() const {
  if (packed == nullptr) return shape.empty() ? 1 : shape[0];
  int64_t bits = packed->bits;
  for (const int64_t size : shape) bits *= size;
  return bits / 8;
}

uint64_t TensorInfo::row_bytes() const {
  if (packed != nullptr) return 1;
  uint64_t bytes = c10::elementSize(dtype);
  for (size_t axis = 1; axis < shape.size(); ++axis) bytes *= static_cast<uint64_t>(shape[axis]);
  return bytes;
}

void TensorSource::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const at::Tensor tensor = read(name).contiguous();
  const uint64_t row = tensors().at(name).row_bytes();
  const auto* data = static_cast<const std::byte*>(tensor.const_data_ptr());
  std::memcpy(out, data + row * static_cast<uint64_t>(range.first),
              row * static_cast<uint64_t>(range.count));
}

void read_rows_together(const TensorSource& source, const std::string& name, RowRange range,
                        std::byte* out) {
  constexpr uint64_t kPart = 1 << 20;  // bytes; a thread's part is worth its beginning
  const uint64_t row = source.tensors().at(name).row_bytes();
  const auto rows = static_cast<int64_t>(std::max<uint64_t>(kPart / std::max<uint64_t>(row, 1), 1));
  at::parallel_for(0, range.count, rows, [&](int64_t begin, int64_t end) {
    source.read_rows(name, {range.first + begin, end - begin},
                     out + row * static_cast<uint64_t>(begin));
  });
}

std::optional<Fp8Scales> TensorSource::fp8_scales(const std::string&) const { return {}; }

void TensorSource::read_fp8_rows(const std::string& name, RowRange, std::byte*) const {
  TORCH_CHECK(false, name, " is not in FP8");
}

std::optional<PanelWeight> TensorSource::panels(const std::string&) const { return {}; }

at::Tensor read_range(const TensorSource& source, const std::string& name, RowRange range) {
  const TensorInfo& info = source.tensors().at(name);
  std::vector<int64_t> shape = info.shape;
  if (!shape.empty()) shape[0] = range.count;
  at::Tensor rows = at::empty(shape, at::TensorOptions(info.dtype));
  source.read_rows(name, range, static_cast<std::byte*>(rows.mutable_data_ptr()));
  return rows;
}

at::Tensor read_all_rows(const TensorSource& source, const std::string& name) {
  return read_range(source, name, {0, source.tensors().at(name).rows()});
}

at::Tensor unpacked(const PackedType& type, std::span<const std::byte> bytes) {
  TORCH_CHECK(type.bits == 4 && type.values.size() == 16, type.name, " has no values here");
  at::Tensor values = at::empty({static_cast<int64_t>(2 * bytes.size())}, at::kDouble);
  double* out = values.mutable_data_ptr<double>();
  // The lower half first, as in torch's float4_e2m1fn_x2.
  for (const std::byte each : bytes) {
    const auto byte = std::to_integer<size_t>(each);
    *out++ = type.values[byte & 15];
    *out++ = type.values[byte >> 4];
  }
  return values;
}

}  // namespace trestle
