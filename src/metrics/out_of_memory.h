// What a run says when memory does not suffice: what was asked, what holds the rest, and which keys
// take less. Called by the trainer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recipes/config.h"

namespace trestle {

class Ministral3;

/// Who holds a run's memory, in bytes.
struct MemoryUse {
  int64_t weights = 0;
  /// Master weights and moments, but not those that are the weights themselves.
  int64_t optimizer = 0;
  int64_t gradients = 0;
  /// Of all tensors at once, at most; not known of the CPU.
  std::optional<int64_t> peak = {};
};
/// `state` is the optimizer's.
MemoryUse memory_use(const Ministral3& model,
                     const std::vector<std::pair<std::string, at::Tensor>>& state);

/// One line, of a run whose weights and optimizer state do not fit: `use` is what holds memory so
/// far, and keys are those that take less there.
std::string opening_out_of_memory_line(std::string_view asked, const MemoryUse& use,
                                       const TrainConfig& config);

/// One line, of a step. `asked`: as kernels/device.h makes it of libtorch's error.
std::string out_of_memory_line(std::string_view asked, const MemoryUse& use,
                               const TrainConfig& config);

}  // namespace trestle
