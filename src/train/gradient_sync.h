// Gradients of all ranks summed in fp32 buckets. Called by the trainer behind the last backward
// pass of a step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/optimizer.h"
#include "train/ranks.h"

namespace trestle {

/// A parameter that every tensor rank has whole gets partial gradients there and is summed over
/// grid.whole_gradients; one that they share out, by split_of(), over grid.gradients.
class GradientSync {
 public:
  /// `parameters`: those that train, on `device`; a stage may have none. All ranks of a stage make
  /// it with the same ones.
  GradientSync(const AdamW::NamedTensors& parameters, const Ranks& ranks, at::Device device);

  /// Gradients become fp32 and the sums over all ranks, a rank without a gradient counting as
  /// zeros. Where no rank has one there is none.
  void sum();
  /// The 2-norm of all gradients of the model, which are summed, each counted once: fp32 scalar
  /// where they are.
  at::Tensor norm() const;

 private:
  /// Neighbours that are summed together, in the order in which a backward pass comes by them.
  struct Bucket {
    std::vector<size_t> members;  // of parameters_
    Group group;
    at::Tensor flat;  // fp32, one after another
  };
  void add_buckets(const std::vector<size_t>& members, const Group& group);
  void fill(Bucket& bucket);
  std::vector<int64_t> who_has_one() const;

  AdamW::NamedTensors parameters_;
  at::Device device_;
  std::vector<bool> counted_;  // by parameter
  Group model_;
  Group host_;
  std::vector<Bucket> buckets_;
};

}  // namespace trestle
