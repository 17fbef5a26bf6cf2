#include "bridge/load_quantized.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "model/linear.h"

namespace trestle {

namespace {

constexpr int64_t kReadBytes = 8 << 20;

}  // namespace

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
  const TensorInfo& info = source.tensors().at(name);
  const auto row_bytes = static_cast<int64_t>(info.row_bytes());
  const int64_t most = std::max<int64_t>(1, kReadBytes / std::max<int64_t>(1, row_bytes));
  for (int64_t first = 0; first < into.rows(); first += most) {
    const int64_t count = std::min(most, into.rows() - first);
    const at::Tensor rows = at::empty({count, into.columns()}, info.dtype);
    source.read_rows(name, {first, count}, static_cast<std::byte*>(rows.mutable_data_ptr()));
    into.set_rows(first, rows.to(dtype).to(at::kFloat));
  }
  if (!into.absmax().isfinite().all().item<bool>()) {
    user_error(
        "tensor {} holds a value that is no finite number, which {} bits cannot say; mend the "
        "checkpoint, or hold its base in 16 bits",
        name, into.bits());
  }
}

}  // namespace trestle
