#include "linear/quantized.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "cuda/quantized_codes.h"
#include "kernels/cuda_kernels.h"
#include "kernels/row_product.h"
#include "linear/tiled_product.h"

namespace trestle {

namespace {

constexpr int64_t kBlock = QuantizedWeight::kBlock;
static_assert(kTileColumns % kBlock == 0, "a tile starts at a block");
static_assert(kBlock == cuda::kQuantizedBlock, "a card reads the same codes");
// Values that one thread takes at a time.
constexpr int64_t kGrain = 1 << 16;
constexpr std::array<float, cuda::kNf4Levels> kNf4 = [] {
  std::array<float, cuda::kNf4Levels> levels{};
  for (int code = 0; code < cuda::kNf4Levels; ++code) levels[code] = cuda::nf4_level(code);
  return levels;
}();

constexpr std::array<float, 15> kNf4Bounds = [] {
  std::array<float, 15> bounds{};
  for (size_t i = 0; i < bounds.size(); ++i) bounds[i] = (kNf4[i] + kNf4[i + 1]) / 2;
  return bounds;
}();

constexpr float k127th = 1.0F / 127;
constexpr float kLeastAbsmax = 1e-38F;

int64_t code_bytes(int64_t columns, int64_t bits) {
  return bits == 4 ? (columns + 1) / 2 : columns;
}

int64_t blocks_of(int64_t columns) { return (columns + kBlock - 1) / kBlock; }

// NaN where a value is no finite number.
float absmax_of(std::span<const float> block) {
  float largest = 0, poison = 0;
  for (const float value : block) {
    largest = std::max(largest, std::abs(value));
    poison += value * 0;
  }
  return largest + poison;
}

void quantize_nf4(std::span<const float> block, float absmax, uint8_t* codes) {
  std::array<uint8_t, kBlock> nearest{};
  // bitsandbytes divides in a last, shorter block only.
  const bool full = block.size() == kBlock;
  const float least = std::max(absmax, kLeastAbsmax);
  const float inverse = 1 / least;
  for (size_t i = 0; i < block.size(); ++i) {
    const float scaled = full ? block[i] * inverse : block[i] / least;
    int below = 0;
    for (const float bound : kNf4Bounds) below += scaled > bound ? 1 : 0;
    nearest[i] = static_cast<uint8_t>(below);
  }
  if (block.size() % 2 != 0) nearest[block.size()] = 7;  // 0, as bitsandbytes pads
  for (size_t i = 0; i < block.size(); i += 2) {
    codes[i / 2] = static_cast<uint8_t>(nearest[i] << 4 | nearest[i + 1]);
  }
}

void quantize_int8(std::span<const float> block, float absmax, int8_t* codes) {
  // Zeros where 127 / absmax is no number that can be multiplied by.
  const float wanted = 127 / absmax;
  const float inverse = std::isfinite(wanted) ? wanted : 0;
  // Adding and taking away 1.5 * 2^23 rounds half to even, in a loop that vectorises.
  constexpr float kRounder = 12582912.0F;
  for (size_t i = 0; i < block.size(); ++i) {
    codes[i] = static_cast<int8_t>(block[i] * inverse + kRounder - kRounder);
  }
}

template <class T>
void expand(const uint8_t* codes, float absmax, int64_t count, T* out) {
  std::array<T, 16> values;
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(kNf4[i] * absmax);
  for (int64_t i = 0; i < count / 2; ++i) {
    out[2 * i] = values[codes[i] >> 4];
    out[2 * i + 1] = values[codes[i] & 15];
  }
  if (count % 2 != 0) out[count - 1] = values[codes[count / 2] >> 4];
}

template <class T>
void expand(const int8_t* codes, float absmax, int64_t count, T* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<T>(static_cast<float>(codes[i]) * absmax * k127th);
  }
}

template <class Code, class T>
void expand_tile(const QuantizedWeight& weight, IndexRange rows, IndexRange columns, T* out) {
  constexpr int64_t kCodesPerByte = std::is_same_v<Code, uint8_t> ? 2 : 1;
  const Code* codes = weight.codes().const_data_ptr<Code>();
  const auto* absmax = weight.absmax().const_data_ptr<float>();
  const int64_t row_codes = weight.codes().size(1), row_blocks = weight.absmax().size(1);
  const int64_t last_column = columns.first + columns.count;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns.count));
  at::parallel_for(0, rows.count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = rows.first + i;
      for (int64_t column = columns.first; column < last_column; column += kBlock) {
        expand(codes + row * row_codes + column / kCodesPerByte,
               absmax[row * row_blocks + column / kBlock], std::min(kBlock, last_column - column),
               out + i * columns.count + column - columns.first);
      }
    }
  });
}

template <class T>
at::Tensor tile_of(const QuantizedWeight& weight, IndexRange rows, IndexRange columns) {
  at::Tensor out = at::empty({rows.count, columns.count}, c10::CppTypeToScalarType<T>::value);
  if (weight.bits() == 4) {
    expand_tile<uint8_t>(weight, rows, columns, out.mutable_data_ptr<T>());
  } else {
    expand_tile<int8_t>(weight, rows, columns, out.mutable_data_ptr<T>());
  }
  return out;
}

}  // namespace

QuantizedWeight::QuantizedWeight(int64_t rows, int64_t columns, int64_t bits, at::Device device)
    : codes_(
          at::zeros({rows, code_bytes(columns, bits)},
                    at::TensorOptions().dtype(bits == 4 ? at::kByte : at::kChar).device(device))),
      absmax_(at::zeros({rows, blocks_of(columns)},
                        at::TensorOptions().dtype(at::kFloat).device(device))),
      columns_(columns) {
  TORCH_CHECK(bits == 4 || bits == 8, "weights are quantised to 4 or 8 bits, not ", bits);
  if (bits == 4) levels_ = at::tensor(at::ArrayRef<float>(kNf4)).to(device);
}

QuantizedWeight::QuantizedWeight(WeightParts parts)
    : codes_(std::move(parts.tensors[0])),
      absmax_(std::move(parts.tensors[1])),
      levels_(std::move(parts.tensors[2])),
      columns_(parts.size) {}

void QuantizedWeight::copy_from(const QuantizedWeight& other) {
  TORCH_CHECK(other.codes_.scalar_type() == codes_.scalar_type() &&
                  other.codes_.sizes() == codes_.sizes() && other.columns_ == columns_,
              "a quantised weight is copied to one of its shape and bits");
  codes_.copy_(other.codes_);
  absmax_.copy_(other.absmax_);
}

void QuantizedWeight::set_rows(int64_t first, const at::Tensor& values) {
  TORCH_CHECK(values.dim() == 2 && values.size(1) == columns_ && first >= 0 &&
                  first + values.size(0) <= rows() && values.scalar_type() == at::kFloat &&
                  values.is_cpu() && codes_.is_cpu(),
              "rows to quantise are fp32 [n, ", columns_, "] within ", rows(), " rows, on the CPU");
  const at::Tensor contiguous = values.contiguous();
  const auto* from = contiguous.const_data_ptr<float>();
  auto* absmax = absmax_.mutable_data_ptr<float>();
  auto* codes = static_cast<std::byte*>(codes_.mutable_data_ptr());
  const int64_t row_codes = codes_.size(1), row_blocks = absmax_.size(1), per_byte = 8 / bits();
  const auto quantize_rows = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = 0; column < columns_; column += kBlock) {
        const std::span<const float> block(
            from + row * columns_ + column,
            static_cast<size_t>(std::min(kBlock, columns_ - column)));
        float& scale = absmax[(first + row) * row_blocks + column / kBlock];
        scale = absmax_of(block);
        if (std::isnan(scale)) continue;
        // bitsandbytes: of the 4 bits of a last, shorter block.
        if (per_byte == 2 && std::ssize(block) < kBlock) scale = std::max(scale, kLeastAbsmax);
        std::byte* to = codes + (first + row) * row_codes + column / per_byte;
        if (per_byte == 2) {
          quantize_nf4(block, scale, reinterpret_cast<uint8_t*>(to));
        } else {
          quantize_int8(block, scale, reinterpret_cast<int8_t*>(to));
        }
      }
    }
  };
  at::parallel_for(0, values.size(0), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns_)),
                   quantize_rows);
}

at::Tensor QuantizedWeight::dense(IndexRange rows, IndexRange columns, at::ScalarType dtype) const {
  TORCH_CHECK(columns.first % kBlock == 0, "a tile starts at a block");
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16, "values are fp32 or bf16");
  if (const cuda::Kernels* kernels = kernels_for(codes_.device())) {
    return dense_by(*kernels, rows, columns, dtype);
  }
  if (!codes_.is_cpu()) return dense_by_operators(rows, columns, dtype);
  return dtype == at::kFloat ? tile_of<float>(*this, rows, columns)
                             : tile_of<at::BFloat16>(*this, rows, columns);
}

at::Tensor QuantizedWeight::dense_by(const cuda::Kernels& kernels, IndexRange rows,
                                     IndexRange columns, at::ScalarType dtype) const {
  const int64_t row_codes = codes_.size(1), row_blocks = absmax_.size(1), per_byte = 8 / bits();
  const cuda::QuantizedCodes from{
      .codes = static_cast<const std::byte*>(codes_.const_data_ptr()) + rows.first * row_codes +
               columns.first / per_byte,
      .absmax = absmax_.const_data_ptr<float>() + rows.first * row_blocks + columns.first / kBlock,
      .code_stride = row_codes,
      .absmax_stride = row_blocks};
  at::Tensor values = at::empty({rows.count, columns.count}, codes_.options().dtype(dtype));
  const cuda::Tile tile{kernel_type(dtype), rows.count, columns.count, values.mutable_data_ptr()};
  if (bits() == 4) {
    launch(kernels, &cuda::Kernels::dequantize_nf4, "dequantize_nf4", values, tile, from);
  } else {
    launch(kernels, &cuda::Kernels::dequantize_int8, "dequantize_int8", values, tile, from);
  }
  return values;
}

at::Tensor QuantizedWeight::dense_by_operators(IndexRange rows, IndexRange columns,
                                               at::ScalarType dtype) const {
  const auto part = [&](const at::Tensor& tensor, int64_t first, int64_t last) {
    return tensor.narrow(0, rows.first, rows.count).narrow(1, first, last - first);
  };
  const int64_t last_column = columns.first + columns.count;
  const at::Tensor absmax = part(absmax_, columns.first / kBlock, blocks_of(last_column))
                                .unsqueeze(2)
                                .expand({-1, -1, kBlock})
                                .flatten(1)
                                .narrow(1, 0, columns.count);
  if (bits() == 8) {
    const at::Tensor codes = part(codes_, columns.first, last_column).to(at::kFloat);
    return (codes * absmax * k127th).to(dtype);
  }
  const at::Tensor bytes = part(codes_, columns.first / 2, (last_column + 1) / 2);
  const at::Tensor codes = at::stack({bytes.bitwise_right_shift(4), bytes.bitwise_and(15)}, 2)
                               .flatten(1)
                               .narrow(1, 0, columns.count)
                               .to(at::kInt);
  return (at::embedding(levels_.unsqueeze(1), codes).squeeze(2) * absmax).to(dtype);
}

at::Tensor quantized_linear(const at::Tensor& x, const QuantizedWeight& weight) {
  if (takes_row_product(x)) return row_product(x, weight.codes(), weight.absmax());
  return TiledProduct<QuantizedWeight>::apply(x, weight);
}

}  // namespace trestle
