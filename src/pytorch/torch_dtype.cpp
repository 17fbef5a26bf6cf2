#include "pytorch/torch_dtype.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>

namespace trestle {

namespace {

struct Dtype {
  at::ScalarType type;
  std::string_view name;
  std::string_view storage;
};

constexpr std::array kDtypes = {
    Dtype{at::kBFloat16, "bfloat16", "BFloat16Storage"},
    Dtype{at::kFloat, "float32", "FloatStorage"},
    Dtype{at::kHalf, "float16", "HalfStorage"},
    Dtype{at::kDouble, "float64", "DoubleStorage"},
    Dtype{at::kLong, "int64", "LongStorage"},
    Dtype{at::kInt, "int32", "IntStorage"},
    Dtype{at::kShort, "int16", "ShortStorage"},
    Dtype{at::kChar, "int8", "CharStorage"},
    Dtype{at::kByte, "uint8", "ByteStorage"},
    Dtype{at::kBool, "bool", "BoolStorage"},
    Dtype{at::kFloat8_e4m3fn, "float8_e4m3fn", ""},
    Dtype{at::kFloat8_e5m2, "float8_e5m2", ""},
    Dtype{at::kUInt16, "uint16", ""},
    Dtype{at::kUInt32, "uint32", ""},
    Dtype{at::kUInt64, "uint64", ""},
};

const Dtype& entry(at::ScalarType dtype) {
  const auto* found = std::ranges::find(kDtypes, dtype, &Dtype::type);
  TORCH_CHECK(found != kDtypes.end(), "no checkpoint holds tensors of type ", c10::toString(dtype));
  return *found;
}

}  // namespace

std::optional<at::ScalarType> dtype_of_name(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  const auto* found = std::ranges::find(kDtypes, name, &Dtype::name);
  if (found == kDtypes.end()) return std::nullopt;
  return found->type;
}

std::string dtype_name(at::ScalarType dtype) { return std::string(entry(dtype).name); }

std::optional<at::ScalarType> dtype_of_storage(std::string_view storage_class) {
  const auto* found = std::ranges::find(kDtypes, storage_class, &Dtype::storage);
  if (storage_class.empty() || found == kDtypes.end()) return std::nullopt;
  return found->type;
}

std::string storage_class_name(at::ScalarType dtype) { return std::string(entry(dtype).storage); }

}  // namespace trestle
