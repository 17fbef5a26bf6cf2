// A forward that holds one decoder layer at a time: what a checkpoint of any size computes, within
// the memory of a conversion. Called by --verify and compare; answering questions is generate's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "formats/tensor_source.h"
#include "model/config.h"
#include "model/input.h"

namespace trestle {

/// Ids drawn from a fixed seed, half of their positions beyond YaRN's original context (where the
/// model has one), and a picture of noise where there is a vision tower: touches everything that a
/// config says about the model's arithmetic.
ModelInput probe_input(const ModelConfig& config);

/// What streamed_logits holds of a model at most, and compare_logits of what two give of
/// probe_input, in bytes.
uint64_t streamed_bytes(const ModelConfig& config, at::ScalarType dtype);

/// Logits [T, V] in fp32 on the CPU, computed in `dtype` on `device`. `megatron` has Megatron's
/// names; it is read in order, each layer once. Holds a layer of either tower, the projector, or
/// blocks of the vocabulary.
at::Tensor streamed_logits(const TensorSource& megatron, const ModelConfig& config,
                           at::ScalarType dtype, const ModelInput& input,
                           at::Device device = at::kCPU);

}  // namespace trestle
