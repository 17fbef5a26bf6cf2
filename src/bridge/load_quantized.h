// Weights that a model holds quantised or in FP8, on their way from a checkpoint. Called by load,
// and by whoever asks which they are.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bridge/upload.h"
#include "formats/tensor_source.h"
#include "linear/linear.h"
#include "linear/quantized.h"
#include "model/config.h"

namespace trestle {

/// The projections below `module` that are quantised, by the names of their weights. The pointers
/// live as long as the module.
std::map<std::string, QuantizedWeight*> quantized_weights(const torch::nn::Module& module);

/// Reads some rows at a time, rounds them to `dtype` as a model that is not quantised holds them,
/// and quantises them: nothing is in memory whole but the result. The shapes agree. Throws
/// UserError, naming the tensor, where a value is no finite number.
void quantize(const TensorSource& source, const std::string& name, at::ScalarType dtype,
              QuantizedWeight& into);

/// The same into panels: of bf16, or in codes of them.
void pack(const TensorSource& source, const std::string& name, PanelWeight& into);

/// The projections below `module` by the names of their weights; the pointers live as long as it.
std::map<std::string, Linear*> projections(const torch::nn::Module& module);

/// Of a projection that Build::keep_fp8 left without a weight: holds that of the checkpoint in FP8
/// where it is stored so, a copy of codes and scales; else allocates one, and returns false.
/// `upload`: the codes' way to the projection's device, which the caller finishes; null for the
/// CPU.
bool hold_fp8(const TensorSource& source, const std::string& name, Linear& into, Upload* upload);

/// How many projections of such a model hold_fp8() would hold.
int64_t count_fp8(const TensorSource& megatron, const ModelConfig& config);

/// What peft.base_bits and --base-bits may say, but for `auto`: "16" (of `dtype`), "8", "4", or
/// "fp8" (as the checkpoint has them).
Build base_build(at::ScalarType dtype, std::string_view bits, at::Device device = at::kCPU);

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
/// What a weight is held by, each with a name; nothing where it is held as it is.
NamedTensors held_tensors(Linear& linear);

}  // namespace trestle
