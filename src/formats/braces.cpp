#include "formats/braces.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>

#include "base/error.h"

namespace trestle {

namespace {

constexpr size_t kMaxNames = 100'000;

std::optional<int64_t> number_of(std::string_view digits) {
  int64_t value = 0;
  const char* last = digits.data() + digits.size();
  const auto [end, fault] = std::from_chars(digits.data(), last, value);
  if (digits.empty() || fault != std::errc() || end != last || value < 0) return std::nullopt;
  return value;
}

// "08..11" -> 08, 09, 10, 11.
std::vector<std::string> range(std::string_view inside, std::string_view pattern) {
  const size_t dots = inside.find("..");
  if (dots == inside.npos) return {};
  const std::string_view from = inside.substr(0, dots), to = inside.substr(dots + 2);
  const auto first = number_of(from), last = number_of(to);
  if (!first || !last) return {};
  if (*first > *last || static_cast<uint64_t>(*last - *first) >= kMaxNames) {
    user_error("{}: {{{}}} must count up, over at most {} names", pattern, inside, kMaxNames);
  }
  std::vector<std::string> names;
  for (int64_t i = *first; i <= *last; ++i) {
    names.push_back(fmt::format("{:0{}}", i, std::max(from.size(), to.size())));
  }
  return names;
}

std::vector<std::string> choices(std::string_view inside, std::string_view pattern) {
  if (inside.find(',') == inside.npos) return range(inside, pattern);
  std::vector<std::string> names;
  for (size_t at = 0; at <= inside.size();) {
    const size_t comma = std::min(inside.find(',', at), inside.size());
    names.emplace_back(inside.substr(at, comma - at));
    at = comma + 1;
  }
  return names;
}

}  // namespace

std::vector<std::string> expand_braces(std::string_view pattern) {
  std::vector<std::string> names = {""};
  for (std::string_view rest = pattern; !rest.empty();) {
    const size_t open = rest.find('{'), close = rest.find('}', std::min(open, rest.size()));
    const bool braced = close != rest.npos;
    const std::string_view plain = braced ? rest.substr(0, open) : rest;
    std::vector<std::string> middle = {""};
    if (braced) {
      middle = choices(rest.substr(open + 1, close - open - 1), pattern);
      if (middle.empty()) middle = {std::string(rest.substr(open, close + 1 - open))};
    }
    if (middle.size() > kMaxNames / names.size()) {
      user_error("{}: more than {} names", pattern, kMaxNames);
    }
    std::vector<std::string> longer;
    for (const std::string& name : names) {
      for (const std::string& each : middle) longer.push_back(name + std::string(plain) + each);
    }
    names = std::move(longer);
    rest.remove_prefix(braced ? close + 1 : rest.size());
  }
  return names;
}

}  // namespace trestle
