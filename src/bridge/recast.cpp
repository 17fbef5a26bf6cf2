#include "bridge/recast.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "bridge/views.h"
#include "formats/fp8.h"

namespace trestle {

namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";
constexpr float kLargestE4m3 = 448;

at::ScalarType scalar_type(WeightDtype dtype) {
  switch (dtype) {
    case WeightDtype::kFloat32:
      return at::kFloat;
    case WeightDtype::kFloat16:
      return at::kHalf;
    case WeightDtype::kBFloat16:
    case WeightDtype::kFp8:
      break;
  }
  return at::kBFloat16;
}

bool is_scale(const std::string& name) { return name.ends_with(kScaleSuffix); }

std::string weight_of(const std::string& scale) {
  return scale.substr(0, scale.size() - kScaleSuffix.size());
}

void copy_out(const at::Tensor& rows, std::byte* out) {
  std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
}

float largest(const at::Tensor& values) {
  return values.numel() == 0 ? 0 : values.to(at::kFloat).abs().max().item<float>();
}

}  // namespace

bool is_fp8_weight(const std::string& name) {
  return name.starts_with("model.layers.") && name.ends_with("_proj.weight");
}

std::vector<std::string> modules_without_fp8() {
  return {"model.vision_tower", "model.multi_modal_projector", "lm_head"};
}

Recast::Recast(const TensorSource& source, WeightDtype dtype) : source_(source) {
  for (const auto& [name, info] : source.tensors()) {
    TensorInfo out{at::isFloatingType(info.dtype) ? scalar_type(dtype) : info.dtype, info.shape};
    if (dtype == WeightDtype::kFp8 && is_fp8_weight(name)) {
      out.dtype = at::kFloat8_e4m3fn;
      tensors_[name + std::string(kScaleSuffix)] = {at::kFloat, {}};
    }
    tensors_[name] = std::move(out);
  }
}

TensorList Recast::list(const std::vector<std::string>& names) const {
  TensorList list;
  for (const std::string& name : names) {
    list.emplace_back(name, tensors_.at(name));
    const auto scale = tensors_.find(name + std::string(kScaleSuffix));
    if (scale != tensors_.end()) list.emplace_back(scale->first, scale->second);
  }
  return list;
}

float Recast::scale_of(const std::string& weight) const {
  if (const auto found = scales_.find(weight); found != scales_.end()) return found->second;
  const TensorInfo& info = source_.tensors().at(weight);
  float most = 0;
  for_row_blocks(info, [&](RowRange range) {
    const float here = largest(read_range(source_, weight, range));
    if (!std::isfinite(here)) {
      user_error("tensor {} holds {}, which FP8 cannot; export it as bf16", weight, here);
    }
    most = std::max(most, here);
  });
  // A weight of zeros, or as good as that, is not scaled.
  const float scale = 1 / most * kLargestE4m3;  // as torch computes 448 / most
  return scales_[weight] = std::isnormal(scale) && std::isnormal(1 / scale) ? scale : 1;
}

at::Tensor Recast::read(const std::string& name) const { return read_all_rows(*this, name); }

void Recast::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const TensorInfo& info = tensors_.at(name);
  if (is_scale(name) && !source_.tensors().contains(name)) {
    const float inverse = 1 / scale_of(weight_of(name));
    std::memcpy(out, &inverse, sizeof inverse);
    return;
  }
  if (info.dtype == source_.tensors().at(name).dtype) {
    source_.read_rows(name, range, out);
    return;
  }
  const at::Tensor rows = read_range(source_, name, range);
  if (info.dtype == at::kFloat8_e4m3fn) {
    // Clamped: the largest may round to a little more than e4m3 has.
    copy_out((rows.to(at::kFloat) * scale_of(name))
                 .clamp_(-kLargestE4m3, kLargestE4m3)
                 .to(at::kFloat8_e4m3fn),
             out);
    return;
  }
  const at::Tensor cast = rows.to(info.dtype);
  if (info.dtype == at::kHalf && std::isinf(largest(cast)) && std::isfinite(largest(rows))) {
    user_error("tensor {} holds a value beyond float16's 65504; export it as bf16", name);
  }
  copy_out(cast, out);
}

ReadBack::ReadBack(const Recast& written) : written_(written) {
  for (auto [name, info] : written.tensors()) {
    if (is_scale(name)) continue;
    if (info.dtype == at::kFloat8_e4m3fn) info.dtype = at::kBFloat16;
    tensors_[name] = std::move(info);
  }
}

at::Tensor ReadBack::read(const std::string& name) const { return read_all_rows(*this, name); }

void ReadBack::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const TensorInfo& stored = written_.tensors().at(name);
  if (stored.dtype != at::kFloat8_e4m3fn) return written_.read_rows(name, range, out);
  const at::Tensor scale = written_.read(name + std::string(kScaleSuffix));
  const at::Tensor codes = read_range(written_, name, range);
  dequantize_fp8_rows(static_cast<const std::byte*>(codes.const_data_ptr()), range, stored.shape,
                      scale, {}, name, reinterpret_cast<at::BFloat16*>(out));
}

}  // namespace trestle
