// Text from files nobody vouches for, and small things done to text. Called by readers, by main for
// every message and by `trestle inspect`.
#pragma once

#include <string>
#include <string_view>

namespace trestle {

/// Control characters become spaces or '?': no name in a file starts a line or moves the cursor.
std::string one_line(std::string text);

/// Up to its first line end.
std::string first_line(std::string_view text);

/// Without spaces, tabs and line ends before and behind.
std::string_view trimmed(std::string_view text);

/// Whether yaml-cpp gives this tag to a value that means no more than it says: "?" is a plain
/// text's, "!" a quoted one's, and YAML's own (!!int) say what a key's type says too.
bool is_usual_yaml_tag(std::string_view tag);

/// Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace trestle
