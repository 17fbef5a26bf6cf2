#include "base/bytes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/number.h"

namespace trestle {

uint64_t parse_bytes(std::string_view flag, std::string_view text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  const size_t digits = std::min(text.find_first_not_of("0123456789.eE+-"), text.size());
  double number = 0;
  const bool is_number = number_problem(text.substr(0, digits), number).empty();
  for (const auto& [name, factor] : kUnits) {
    const double bytes = number * factor;
    if (is_number && text.substr(digits) == name && bytes >= 1 && bytes < 1e18 &&
        bytes == std::floor(bytes)) {
      return static_cast<uint64_t>(bytes);
    }
  }
  user_error("{} {}: not a whole number of bytes, 1 or more; write it as 500MB, 1.5GB or 2GiB",
             flag, text);
}

std::string size_text(uint64_t bytes) {
  constexpr std::pair<std::string_view, uint64_t> kUnits[] = {{"MB", 1'000'000}, {"KB", 1'000}};
  for (const auto& [name, unit] : kUnits) {
    if (bytes >= unit) return fmt::format("{}{}", (bytes + unit - 1) / unit, name);
  }
  return fmt::format("{}B", bytes);
}

}  // namespace trestle
