// "did you mean X?": of the names that there are the one that was meant, where one is near. Called
// by whatever refuses a name.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// The one of `names` that `name` may have been meant for: a third of its letters at most are
/// other ones, left out, added or swapped with their neighbour, as rustc and clang bound it. A
/// dotted name is near where each of its halves is, and where its last part is right and stands in
/// another group or in none. Letters' case does not count.
std::optional<std::string> nearest(std::string_view name, const std::vector<std::string>& names);

/// "did you mean X?"; `otherwise` where nothing is near.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& names,
                         std::string_view otherwise);

/// The first of the names that begins with `word`, of three letters and more, or else the nearest.
std::optional<std::string> begun_or_nearest(std::string_view word,
                                            const std::vector<std::string>& names);

/// "; did you mean X?" behind what the names are; empty where nothing is near.
std::string or_meant(std::string_view name, const std::vector<std::string>& names);

}  // namespace trestle
