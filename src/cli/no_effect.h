// A flag given where it can change nothing is refused: who gave it expects something of it. Called
// by every command with flags that are for some of its ways only.
#pragma once

#include <initializer_list>
#include <string_view>

namespace CLI {
class App;
}

namespace trestle {

/// Throws UserError, "FLAG VALUE has no effect: WHY; leave it out", where one of the flags is
/// given.
void refuse_given(const CLI::App& command, std::initializer_list<const char*> flags,
                  std::string_view why);

}  // namespace trestle
