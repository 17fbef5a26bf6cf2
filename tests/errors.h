// What an action says when it throws: shared by the tests of every stage.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace trestle {

/// The line of the UserError that `action` throws.
std::string error_of(auto&& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

/// That a line has all of these parts.
inline void expect_says(const std::string& line, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(line.find(part), std::string::npos) << "'" << part << "' in: " << line;
  }
}

}  // namespace trestle
