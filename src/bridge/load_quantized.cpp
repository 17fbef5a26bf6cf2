#include "bridge/load_quantized.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "bridge/views.h"
#include "checkpoint/packed_checkpoint.h"
#include "megatron/names.h"
#include "model/ministral3.h"

namespace trestle {

namespace {
constexpr int64_t kPackBytes = 16 << 20;  // read at a time
}  // namespace

std::map<std::string, Linear*> projections(const torch::nn::Module& module) {
  std::map<std::string, Linear*> found;
  for (const auto& entry : module.named_modules("", /*include_self=*/false)) {
    auto* linear = dynamic_cast<Linear*>(entry.value().get());
    if (linear != nullptr) found[entry.key() + ".weight"] = linear;
  }
  return found;
}

std::map<std::string, QuantizedWeight*> quantized_weights(const torch::nn::Module& module) {
  std::map<std::string, QuantizedWeight*> weights;
  for (const auto& [name, linear] : projections(module)) {
    if (linear->quantized() != nullptr) weights[name] = linear->quantized();
  }
  return weights;
}

void quantize(const TensorSource& source, const std::string& name, at::ScalarType dtype,
              QuantizedWeight& into) {
  // Quantised by the processor, so that the codes are the same wherever they go.
  const bool is_here = into.codes().is_cpu();
  QuantizedWeight made = is_here ? into : QuantizedWeight(into.rows(), into.columns(), into.bits());
  for_row_blocks(source.tensors().at(name), [&](RowRange range) {
    made.set_rows(range.first, read_range(source, name, range).to(dtype).to(at::kFloat));
  });
  if (!made.absmax().isfinite().all().item<bool>()) {
    user_error(
        "tensor {} holds a value that is no finite number, which {} bits cannot say; mend the "
        "checkpoint, or hold its base in 16 bits",
        name, into.bits());
  }
  if (!is_here) into.copy_from(made);
}

void pack(const TensorSource& source, const std::string& name, PanelWeight& into) {
  // Whole panels at a time; a padded vocabulary has more rows.
  const TensorInfo& stored = source.tensors().at(name);
  const int64_t row_bytes = std::max<int64_t>(1, static_cast<int64_t>(stored.row_bytes()));
  const int64_t step = std::max<int64_t>(1, kPackBytes / row_bytes / kPanelRows) * kPanelRows;
  for (int64_t first = 0; first < into.rows(); first += step) {
    const RowRange range{first, std::min(step, into.rows() - first)};
    pack_range(source, name, range, into, first);
  }
}

bool hold_fp8(const TensorSource& source, const std::string& name, Linear& into, Upload* upload) {
  auto scales = source.fp8_scales(name);
  if (!scales) {
    into.allocate();
    return false;
  }
  const TensorInfo stored{at::kFloat8_e4m3fn, source.tensors().at(name).shape};
  const at::Device device = upload == nullptr ? at::Device(at::kCPU) : into.device();
  at::Tensor codes = at::empty(stored.shape, at::TensorOptions(stored.dtype).device(device));
  for_row_blocks(stored, [&](RowRange range) {
    const at::Tensor place = codes.narrow(0, range.first, range.count);
    if (upload == nullptr) {
      source.read_fp8_rows(name, range, static_cast<std::byte*>(place.mutable_data_ptr()));
      return;
    }
    source.read_fp8_rows(name, range, upload->next(place.numel()));
    upload->send(stored.dtype, place);
  });
  into.hold(Fp8Weight(std::move(codes), std::move(*scales)));
  return true;
}

int64_t count_fp8(const TensorSource& megatron, const ModelConfig& config) {
  const Ministral3 shell(config, {at::kBFloat16, at::Device(at::kMeta)});
  return std::ranges::count_if(projections(shell), [&](const auto& each) {
    // The head is held as the embedding is.
    return !may_be_padded(each.first) && megatron.fp8_scales(each.first);
  });
}

Build base_build(at::ScalarType dtype, std::string_view bits, at::Device device) {
  Build build{dtype, device};
  if (bits == "8") build.weight_bits = 8;
  if (bits == "4") build.weight_bits = 4;
  build.keep_fp8 = bits == "fp8";
  return build;
}

NamedTensors held_tensors(Linear& linear) {
  if (const QuantizedWeight* held = linear.quantized()) {
    return {{"codes", held->codes()}, {"absmax", held->absmax()}};
  }
  if (const Fp8Weight* held = linear.fp8()) {
    const Fp8Scales& scales = held->scales();
    return {{"codes", held->codes()},
            {fmt::format("scales of {}", scales.columns), scales.values},
            {"grid rows", scales.grid_row}};
  }
  return {};
}

}  // namespace trestle
