// PyTorch's names for element types: `bfloat16` in configurations and pickles, `BFloat16Storage` in
// saved tensors. Called by everything that reads or writes files made by PyTorch.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// "bfloat16" or "torch.bfloat16" -> kBFloat16; nothing for a name that is no element type we know.
std::optional<at::ScalarType> dtype_of_name(std::string_view name);
/// kBFloat16 -> "bfloat16". TORCH_CHECKs that the type is one we know.
std::string dtype_name(at::ScalarType dtype);

/// "BFloat16Storage" -> kBFloat16.
std::optional<at::ScalarType> dtype_of_storage(std::string_view storage_class);
/// kBFloat16 -> "BFloat16Storage"; empty for types without a storage class of their own (float8,
/// uint16, ...).
std::string storage_class_name(at::ScalarType dtype);

}  // namespace trestle
