#include "formats/ggml.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

namespace trestle {

namespace {

constexpr GgmlLayout kLayouts[] = {
    {GgmlType{0}, "F32", 1, 4},         {GgmlType{1}, "F16", 1, 2},
    {GgmlType{2}, "Q4_0", 32, 18},      {GgmlType{3}, "Q4_1", 32, 20},
    {GgmlType{6}, "Q5_0", 32, 22},      {GgmlType{7}, "Q5_1", 32, 24},
    {GgmlType{8}, "Q8_0", 32, 34},      {GgmlType{9}, "Q8_1", 32, 36},
    {GgmlType{10}, "Q2_K", 256, 84},    {GgmlType{11}, "Q3_K", 256, 110},
    {GgmlType{12}, "Q4_K", 256, 144},   {GgmlType{13}, "Q5_K", 256, 176},
    {GgmlType{14}, "Q6_K", 256, 210},   {GgmlType{15}, "Q8_K", 256, 292},
    {GgmlType{16}, "IQ2_XXS", 256, 66}, {GgmlType{17}, "IQ2_XS", 256, 74},
    {GgmlType{18}, "IQ3_XXS", 256, 98}, {GgmlType{19}, "IQ1_S", 256, 50},
    {GgmlType{20}, "IQ4_NL", 32, 18},   {GgmlType{21}, "IQ3_S", 256, 110},
    {GgmlType{22}, "IQ2_S", 256, 82},   {GgmlType{23}, "IQ4_XS", 256, 136},
    {GgmlType{24}, "I8", 1, 1},         {GgmlType{25}, "I16", 1, 2},
    {GgmlType{26}, "I32", 1, 4},        {GgmlType{27}, "I64", 1, 8},
    {GgmlType{28}, "F64", 1, 8},        {GgmlType{29}, "IQ1_M", 256, 56},
    {GgmlType{30}, "BF16", 1, 2},       {GgmlType{34}, "TQ1_0", 256, 54},
    {GgmlType{35}, "TQ2_0", 256, 66},   {GgmlType{39}, "MXFP4", 32, 17},
};

constexpr int64_t kBlock = 32;
struct Q8Block {
  uint16_t scale;  // float16
  int8_t values[kBlock];
};
static_assert(sizeof(Q8Block) == 34);

bool encode_q8_0(const float* values, Q8Block& block) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < kBlock; ++i) {
    finite = finite && std::isfinite(values[i]);
    largest = std::max(largest, std::abs(values[i]));
  }
  const float scale = largest / 127;
  // A scale so small that its inverse overflows is 0 in float16 too.
  const float inverse = scale == 0 || std::isinf(1 / scale) ? 0 : 1 / scale;
  const c10::Half stored(scale);
  block.scale = stored.x;
  if (!finite || std::isinf(static_cast<float>(stored))) return false;
  for (int64_t i = 0; i < kBlock; ++i) {
    block.values[i] = static_cast<int8_t>(std::round(values[i] * inverse));
  }
  return true;
}

}  // namespace

const GgmlLayout* ggml_layout(uint32_t number) {
  const auto* found = std::ranges::find(kLayouts, GgmlType{number}, &GgmlLayout::type);
  return found == std::end(kLayouts) ? nullptr : found;
}

const GgmlLayout& ggml_layout(GgmlType type) {
  const GgmlLayout* layout = ggml_layout(static_cast<uint32_t>(type));
  TORCH_CHECK(layout != nullptr, "no ggml type ", static_cast<uint32_t>(type));
  return *layout;
}

bool ggml_readable(GgmlType type) {
  return type == GgmlType::kF32 || type == GgmlType::kF16 || type == GgmlType::kBF16 ||
         type == GgmlType::kQ8_0;
}

at::ScalarType ggml_dtype(GgmlType type) {
  if (type == GgmlType::kF16) return at::kHalf;
  if (type == GgmlType::kBF16) return at::kBFloat16;
  return at::kFloat;
}

bool ggml_encode(const at::Tensor& values, GgmlType type, std::span<std::byte> out) {
  TORCH_CHECK(values.is_contiguous() && ggml_readable(type), "cannot encode as ",
              ggml_layout(type).name);
  if (type != GgmlType::kQ8_0) {
    const at::Tensor cast = values.to(ggml_dtype(type));
    TORCH_CHECK(cast.nbytes() == out.size(), cast.nbytes(), " bytes for ", out.size());
    if (cast.numel() == 0) return true;
    std::memcpy(out.data(), cast.const_data_ptr(), out.size());
    // bfloat16 and float32 hold what the other formats here hold, but for values that float32
    // itself would round to infinity.
    return type != GgmlType::kF16 || values.scalar_type() == at::kHalf ||
           !(values.to(at::kFloat).abs().max().item<float>() >= 65520);
  }
  const at::Tensor floats = values.to(at::kFloat);
  const int64_t blocks = floats.numel() / kBlock;
  TORCH_CHECK(
      floats.numel() % kBlock == 0 && out.size() == static_cast<size_t>(blocks) * sizeof(Q8Block),
      "Q8_0 takes whole blocks");
  const float* data = floats.const_data_ptr<float>();
  std::atomic<bool> good = true;
  at::parallel_for(0, blocks, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Q8Block block{};
      if (!encode_q8_0(data + i * kBlock, block)) good = false;
      std::memcpy(out.data() + i * static_cast<int64_t>(sizeof block), &block, sizeof block);
    }
  });
  return good;
}

at::Tensor ggml_decode_q8_0(std::span<const std::byte> blocks) {
  const auto count = static_cast<int64_t>(blocks.size() / sizeof(Q8Block));
  at::Tensor values = at::empty({count * kBlock}, at::kFloat);
  float* data = values.mutable_data_ptr<float>();
  at::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Q8Block block;
      std::memcpy(&block, blocks.data() + i * static_cast<int64_t>(sizeof block), sizeof block);
      const float scale = c10::Half(block.scale, c10::Half::from_bits());
      for (int64_t j = 0; j < kBlock; ++j) {
        data[i * kBlock + j] = scale * static_cast<float>(block.values[j]);
      }
    }
  });
  return values;
}

}  // namespace trestle
