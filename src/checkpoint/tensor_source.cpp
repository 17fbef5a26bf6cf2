#include "checkpoint/tensor_source.h"

#include <ATen/core/TensorBody.h>

#include <cstring>

namespace trestle {

uint64_t TensorInfo::row_bytes() const {
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

}  // namespace trestle
