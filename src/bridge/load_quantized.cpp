#include "bridge/load_quantized.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "model/linear.h"

namespace trestle {

std::map<std::string, QuantizedWeight*> quantized_weights(const torch::nn::Module& module) {
  std::map<std::string, QuantizedWeight*> weights;
  for (const auto& entry : module.named_modules("", /*include_self=*/false)) {
    auto* linear = dynamic_cast<Linear*>(entry.value().get());
    if (linear != nullptr && linear->quantized() != nullptr) {
      weights[entry.key() + ".weight"] = linear->quantized();
    }
  }
  return weights;
}

void quantize(const TensorSource& source, const std::string& name, at::ScalarType dtype,
              QuantizedWeight& into) {
  for_row_blocks(source.tensors().at(name), [&](RowRange range) {
    into.set_rows(range.first, read_range(source, name, range).to(dtype).to(at::kFloat));
  });
  if (!into.absmax().isfinite().all().item<bool>()) {
    user_error(
        "tensor {} holds a value that is no finite number, which {} bits cannot say; mend the "
        "checkpoint, or hold its base in 16 bits",
        name, into.bits());
  }
}

}  // namespace trestle
