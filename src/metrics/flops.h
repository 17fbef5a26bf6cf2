// How many floating-point operations a step takes: what logger.log_throughput divides by the step's
// time. Called by the trainer.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "model/config.h"
#include "model/input.h"
#include "parallel/stages.h"

namespace trestle {

class Ministral3;

/// Of a stage's runs of layers, in their order, whether gradients flow out of them into what other
/// stages have: without pictures, and with them. None of a whole model.
using GradientInflow = std::vector<std::array<bool, 2>>;

/// A model's operations by what goes through it, with what trains in it when this is made.
///
/// A product of [n, in] and [in, out] is 2 n in out. Backward it is made again for the gradient of
/// its input, where something before it trains, and for that of its weight, where that trains: a
/// frozen weight under LoRA takes 4 n in out, and 2 n in out before the first adapter. Attention
/// makes 4 H operations for each pair of a query head's query and a key that it sees, s (s + 1) / 2
/// pairs of a sequence of s tokens and p^2 of a picture of p patches, and twice that backward. The
/// head is counted for the tokens that are targets. Norms, activations, softmax, the optimizer,
/// DoRA's norms and what model.recompute_granularity makes again are not: model FLOPs in the sense
/// of PaLM (Chowdhery et al. 2022, appendix B), with the shapes of this model and this batch.
///
/// Of a pipeline's stage those that it makes: the stages' sum is the whole model's.
class ModelFlops {
 public:
  explicit ModelFlops(const Ministral3& model, const GradientInflow& inflow = {});

  /// Of one forward and, where anything trains, its backward. `pictures` [C, H, W] are those that
  /// go through the vision tower, a part of input.images_CHW or all of them.
  double of(const ModelInput& input, const std::vector<at::Tensor>& pictures,
            int64_t targets) const;

 private:
  struct Text {
    double token = 0, pair = 0, target = 0;
  };
  Text text_of(const Ministral3& model, const GradientInflow& inflow, bool pictures,
               bool flows) const;
  /// Returns whether gradients flow out of the projector.
  bool count_vision(const Ministral3& model);

  /// Without pictures, and with them.
  Text text_[2];
  double patch_ = 0, patch_pair_ = 0, merged_ = 0;
  int64_t patch_size_ = 1, merge_ = 1;
};

/// What `input` with so many targets takes in each part of a model, in operations: what
/// levelled_runs() shares out over stages. `settle` says what trains in a model of some of its
/// parts, which has no values; by default all does.
PartCosts part_costs(const ModelConfig& config, const ModelInput& input, int64_t targets,
                     const std::function<void(Ministral3&)>& settle = {});

}  // namespace trestle
