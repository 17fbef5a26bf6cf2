// One metadata value of a GGUF file. Filled by gguf.cpp; read by whoever asks a GgufFile.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace trestle {

/// Numbers as files hold them (`gguf_type` of gguf.h in ggml).
enum class GgufKind : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

/// A metadata value where it lies in the file; valid as long as the GgufFile.
struct GgufValue {
  GgufKind kind = GgufKind::kUint8;
  /// Of an array: what it holds, and how many.
  GgufKind element = GgufKind::kUint8;
  uint64_t count = 0;
  /// The value, or the elements; of a string without its length.
  std::string_view bytes;

  /// Nothing where the value is of another kind. Whole numbers and booleans:
  std::optional<int64_t> integer() const;
  std::optional<double> number() const;
  std::optional<std::string_view> text() const;
  std::optional<std::vector<double>> numbers() const;
  std::optional<std::vector<std::string_view>> texts() const;
  /// For people: a number, a quoted (shortened) text, or "608 strings".
  std::string describe() const;
  /// The value; of an array {"strings": 608} or {"numbers": 3}, of a number that JSON does not have
  /// its text.
  Json to_json() const;
};

/// Bytes of a value of this kind; 0 for strings, arrays and unknown kinds.
uint64_t gguf_fixed_size(GgufKind kind);

}  // namespace trestle
