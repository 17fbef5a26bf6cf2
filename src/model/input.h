// What a model computes from: ids and pictures. Apart from ministral3.h, whose modules cost whoever
// includes them three seconds more. Called by data, which makes it, and by whoever gives it to a
// model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "model/packing.h"

namespace trestle {

struct ContextShare;

/// Packed sequences and the pictures whose features stand at their image tokens, in order of
/// appearance.
struct ModelInput {
  at::Tensor ids_T;
  /// Positions within each sequence, int64 [T].
  at::Tensor positions_T;
  Packing packing;
  /// Normalised pixels [C, H, W], sides multiples of patch * merge.
  std::vector<at::Tensor> images_CHW;
  /// image_features(images_CHW) where they were made beforehand; undefined otherwise.
  at::Tensor features = {};
  /// Where ids, positions and packing are this rank's share of rows (batch_of_rank); else null.
  std::shared_ptr<const ContextShare> context = {};

  static ModelInput make(at::Tensor ids_T, std::vector<int64_t> lengths,
                         std::vector<at::Tensor> images_CHW = {});
};

}  // namespace trestle
