#include "base/bytes.h"

#include <charconv>
#include <string>
#include <utility>

#include "base/error.h"

namespace trestle {

uint64_t parse_bytes(std::string_view flag, std::string_view text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  for (const auto& [name, factor] : kUnits) {
    if (error == std::errc() && unit == name && number > 0 && number * factor < 1e18) {
      return static_cast<uint64_t>(number * factor);
    }
  }
  user_error("{} {}: not a size; write it as 500MB, 1.5GB or 2GiB", flag, text);
}

}  // namespace trestle
