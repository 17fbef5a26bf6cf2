#include "base/number.h"

#include <fmt/format.h>

#include <charconv>

namespace trestle {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

template <class Number>
std::string problem_of(std::string_view text, Number& value, const char* kind) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  Number parsed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
  if (error == std::errc::invalid_argument || end != text.data() + text.size()) {
    return fmt::format("'{}' is not {}", text, kind);
  }
  if (digits.size() > 1 && digits[0] == '0' && is_digit(digits[1])) {
    return fmt::format("'{}' begins with 0, which some read as octal; leave that 0 out", text);
  }
  if (error != std::errc()) return fmt::format("'{}' is beyond what a number holds", text);
  value = parsed;
  return {};
}

}  // namespace

std::string number_problem(std::string_view text, int64_t& value) {
  return problem_of(text, value, "a whole number");
}

std::string number_problem(std::string_view text, double& value) {
  return problem_of(text, value, "a number");
}

}  // namespace trestle
