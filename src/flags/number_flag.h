// A flag that takes a number: decimal and in the range that its help states, or refused in one
// line. Called by every command for each of them; flags that stand for a config key have the key's
// range.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fields.h"
#include "base/number.h"
#include "flags/command.h"

namespace trestle {

/// `allowed` is what Range::text() says; `parse` is given flag and value.
Flag add_checked(Command command, const std::string& names, const std::string& help,
                 std::string_view allowed, bool whole,
                 std::function<void(const std::string& flag, const std::string& value)> parse);
/// T: int64_t, uint64_t or double.
template <class T>
Flag add_number(Command command, const std::string& names, T& value, const Range& allowed,
                const std::string& help) {
  using Parsed = std::conditional_t<std::integral<T>, int64_t, double>;
  Flag flag = add_checked(command, names, help, allowed.text(), std::integral<T>,
                          [&value, allowed](const std::string& name, const std::string& text) {
                            Parsed parsed = 0;
                            const std::string problem = number_problem(text, parsed);
                            if (!problem.empty())
                              user_error("{} {}; {}", name, problem, allowed.text());
                            if (!allowed.holds(parsed))
                              user_error("{} {}: {}", name, text, allowed.text());
                            value = static_cast<T>(parsed);
                          });
  const auto usual = static_cast<Parsed>(value);
  if (allowed.holds(usual)) flag.show_default(format_value(usual));
  return flag;
}

}  // namespace trestle
