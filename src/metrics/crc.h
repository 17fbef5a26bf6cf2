// Cyclic redundancy checks of record files. Called by the writers of TensorBoard and W&B files.
#pragma once

#include <cstdint>
#include <string_view>

namespace trestle {

/// IEEE 802.3, as zlib has it: 0xcbf43926 for "123456789".
uint32_t crc32(std::string_view bytes);

/// Castagnoli, RFC 3720 B.4: 0xe3069283 for "123456789".
uint32_t crc32c(std::string_view bytes);

}  // namespace trestle
