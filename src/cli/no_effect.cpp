#include "cli/no_effect.h"

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace trestle {

void refuse_given(const CLI::App& command, std::initializer_list<const char*> flags,
                  std::string_view why) {
  for (const char* flag : flags) {
    const CLI::Option* option = command.get_option(flag);
    if (option->count() == 0) continue;
    const bool has_value = option->get_items_expected_max() > 0;
    user_error("{}{} has no effect: {}; leave it out", flag,
               has_value ? " " + option->results().front() : "", why);
  }
}

}  // namespace trestle
