// Layers and attention whose activations are computed again in the backward pass instead of kept
// (Chen et al. 2016), under Megatron's names. Called by the decoder and the vision tower.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace trestle {

/// Megatron's recompute_granularity, recompute_method and recompute_num_layers.
struct Recompute {
  /// kSelective: what lies between the projections of attention; kFull: whole layers.
  enum class Granularity { kNone, kSelective, kFull };
  /// Of kFull. kUniform: every layer, num_layers of them between two activations that are kept;
  /// kBlock: the first num_layers, each by itself, and the others keep all of theirs.
  enum class Method { kUniform, kBlock };
  Granularity granularity = Granularity::kNone;
  Method method = Method::kUniform;
  int64_t num_layers = 1;
};

using Segment = std::function<at::Tensor(const at::Tensor&)>;

/// segment(x), of which only x is kept for the backward pass, where it runs once more with the same
/// random numbers. `parameters`: whatever else it reads that may ask for gradients. A plain call
/// where nothing asks for any.
at::Tensor recomputed(const Segment& segment, const at::Tensor& x,
                      const std::vector<at::Tensor>& parameters = {});

/// A stack of layers as run_layers sees it.
struct LayerStack {
  std::function<at::Tensor(const at::Tensor& x, size_t layer)> forward;
  std::function<std::vector<at::Tensor>(size_t layer)> parameters;
};

/// The layers whose forward or backward the backward pass of run_layers goes through, in its order.
std::vector<int64_t> backward_visits(int64_t first, int64_t last, const Recompute& recompute);

/// x through layers first .. last-1. The stack's functions are called in the backward pass too.
at::Tensor run_layers(const LayerStack& stack, at::Tensor x, size_t first, size_t last,
                      const Recompute& recompute);

}  // namespace trestle
