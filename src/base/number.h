// Numbers as people write them: decimal, with one meaning, or refused. Called for config keys by
// base/fields, for flags by flags/number_flag, for sizes by base/bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trestle {

/// What is wrong with `text` as a whole number ("'0x10' is not a whole number"), or nothing, and
/// `value` is set. Octal, hexadecimal, a plus sign, separators and what 64 bits cannot hold are
/// refused.
std::string number_problem(std::string_view text, int64_t& value);
/// Likewise of any number, which may have a fraction and an exponent.
std::string number_problem(std::string_view text, double& value);

}  // namespace trestle
