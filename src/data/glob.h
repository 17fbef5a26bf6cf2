// Patterns of file names as fsspec, and with it `datasets`, has them. Called by data sets of the
// Hub.
#pragma once

#include <string_view>

namespace trestle {

/// Whether a relative path is one of those that `pattern` means: `*` and `?` stay within a name,
/// `[a-c]` and `[!a-c]` are one character, `**` as a whole part is any number of directories, at
/// the end whatever is below. Takes time in proportion to the lengths' product.
bool matches_glob(std::string_view pattern, std::string_view path);

}  // namespace trestle
