// Weights that a model holds quantised, on their way from a checkpoint. Called by load.
#pragma once

#include <map>
#include <string>

#include "formats/tensor_source.h"
#include "model/quantized.h"

namespace torch::nn {
class Module;
}

namespace trestle {

/// The projections below `module` that are quantised, by the names of their weights. The pointers
/// live as long as the module.
std::map<std::string, QuantizedWeight*> quantized_weights(const torch::nn::Module& module);

/// Reads some rows at a time, rounds them to `dtype` as a model that is not quantised holds them,
/// and quantises them: nothing is in memory whole but the result. The shapes agree. Throws
/// UserError, naming the tensor, where a value is no finite number.
void quantize(const TensorSource& source, const std::string& name, at::ScalarType dtype,
              QuantizedWeight& into);

}  // namespace trestle
