#include "cli/number_flag.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <utility>

namespace trestle {

CLI::Option* add_checked(
    CLI::App& command, const std::string& names, const std::string& help, std::string_view allowed,
    bool whole, std::function<void(const std::string& flag, const std::string& value)> parse) {
  if (allowed.starts_with("must be ")) allowed.remove_prefix(8);
  const std::string flag = names.substr(0, names.find(','));
  return command
      .add_option_function<std::string>(
          names, [flag, parse = std::move(parse)](const std::string& value) { parse(flag, value); },
          fmt::format("{} ({})", help, allowed))
      ->type_name(whole ? "INT" : "FLOAT");
}

void show_default(CLI::Option& option, const std::string& value) { option.default_str(value); }

}  // namespace trestle
