// A set of named tensors that lies on disk: what safetensors files and Megatron directories have in
// common. The bridge reads one tensor at a time from it, so that no more than one is in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace trestle {

struct TensorInfo {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  bool operator==(const TensorInfo&) const = default;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Every tensor by name; known without reading any data.
  virtual const std::map<std::string, TensorInfo>& tensors() const = 0;
  /// A contiguous CPU tensor. It may view mapped memory: callers do not write to it.
  /// Throws UserError naming file and tensor when the data cannot be read.
  virtual at::Tensor read(const std::string& name) const = 0;
};

}  // namespace trestle
