// What an action says when it throws: shared by the tests of every stage.
#pragma once

#include <string>

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

}  // namespace trestle
