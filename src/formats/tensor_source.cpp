#include "formats/tensor_source.h"

#include <ATen/ATen.h>

#include <cstring>

namespace trestle {

uint64_t TensorInfo::row_bytes() const {
  if (packed != nullptr) {
    auto bits = static_cast<uint64_t>(packed->bits);
    for (const int64_t size : shape) bits *= static_cast<uint64_t>(size);
    return bits / 8;
  }
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

std::optional<Fp8Scales> TensorSource::fp8_scales(const std::string&) const { return {}; }

void TensorSource::read_fp8_rows(const std::string& name, RowRange, std::byte*) const {
  TORCH_CHECK(false, name, " is not in FP8");
}

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

}  // namespace trestle
