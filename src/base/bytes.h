// Sizes as people write them. Called by the commands.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trestle {

/// "500MB", "1.5GB", "2GiB", "4096" as bytes. Throws UserError naming `flag` for anything else.
uint64_t parse_bytes(std::string_view flag, std::string_view text);

/// As parse_bytes reads it, in whole units and never less: "160MB", "1KB", "12B".
std::string size_text(uint64_t bytes);

inline double gigabytes(uint64_t bytes) { return static_cast<double>(bytes) / 1e9; }

}  // namespace trestle
