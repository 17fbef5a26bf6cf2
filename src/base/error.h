// Errors that a user can mend: a flag, a file, a foreign checkpoint. Bugs of ours use TORCH_CHECK.
// Everyone throws these; only main catches them, prints the one line and exits with 2 (1 for the
// machine's faults).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace trestle {

/// A fault the user can mend. The message is one line: what, both values, what to do.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A fault of the machine (disk full, no permission, out of memory): one line too, but exit
/// status 1.
class MachineError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void user_error(fmt::format_string<Args...> format, Args&&... args) {
  throw UserError(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void machine_error(fmt::format_string<Args...> format, Args&&... args) {
  throw MachineError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace trestle
