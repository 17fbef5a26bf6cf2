// The tensor types of ggml, llama.cpp's library: how values lie in a GGUF file. Called by the GGUF
// reader and writer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace trestle {

/// Numbers as files hold them (`ggml_type` of ggml.h). A file may hold others, see ggml_layout.
enum class GgmlType : uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kBF16 = 30 };

/// A type packs the values of a row in blocks of `block` values and `bytes` bytes.
struct GgmlLayout {
  GgmlType type;
  std::string_view name;
  int64_t block;
  int64_t bytes;
};

/// nullptr for a number that ggml does not define (any more).
const GgmlLayout* ggml_layout(uint32_t number);
const GgmlLayout& ggml_layout(GgmlType type);

/// The dtype in which values of this type are read: their own, and float32 for Q8_0. False where
/// this program only knows the size of the data.
bool ggml_readable(GgmlType type);
at::ScalarType ggml_dtype(GgmlType type);

/// Writes the values of a contiguous floating-point CPU tensor, rounded once to nearest, to `out`,
/// which has the exact size; for Q8_0 they must be whole blocks. Q8_0 is ggml's
/// `quantize_row_q8_0_ref`, bit for bit: a float16 scale max|x| / 127 and 32 int8 a block. False
/// where a value lies beyond the type's range, or is not finite in Q8_0.
bool ggml_encode(const at::Tensor& values, GgmlType type, std::span<std::byte> out);

/// Q8_0 blocks -> float32 [blocks * 32].
at::Tensor ggml_decode_q8_0(std::span<const std::byte> blocks);

}  // namespace trestle
