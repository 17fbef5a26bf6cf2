// Where a number that is none came from. Called by the trainer when a loss or a gradient is not
// finite.
#pragma once

#include <string>

#include "data/batch.h"
#include "kernels/optimizer.h"
#include "parallel/grid.h"

namespace trestle {

class Ministral3;

/// The first tensor that is not finite, in the order in which a forward of `batch` meets them:
/// "parameter NAME", "pixels of image 2", "output of the vision tower", "output of decoder layer
/// 3", "logits"; "no tensor of a second forward" where it does not come again. Costs a forward,
/// in which all ranks of the model take part.
std::string first_bad_tensor(const Ministral3& model, const Grid& grid, const Batch& batch);

/// The first parameter, in the model's order, whose gradient is not finite; empty where all are.
std::string first_bad_gradient(const AdamW::NamedTensors& parameters);

}  // namespace trestle
