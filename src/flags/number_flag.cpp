#include "flags/number_flag.h"

#include <fmt/format.h>

#include <utility>

namespace trestle {

Flag add_checked(Command command, const std::string& names, const std::string& help,
                 std::string_view allowed, bool whole,
                 std::function<void(const std::string& flag, const std::string& value)> parse) {
  if (allowed.starts_with("must be ")) allowed.remove_prefix(8);
  const std::string flag = names.substr(0, names.find(','));
  return command
      .add(
          names, [flag, parse = std::move(parse)](const std::string& value) { parse(flag, value); },
          fmt::format("{} ({})", help, allowed))
      .type(whole ? "INT" : "FLOAT");
}

}  // namespace trestle
