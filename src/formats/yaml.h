// YAML read into JSON and written from it, as run_config.yaml uses it. Called by run_config.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/json.h"

namespace trestle {

/// Parses one YAML document; `what` names it in errors. Plain scalars become null, bool, int or
/// float where they look like one (`1e-5` too), everything quoted a string; tags are ignored; a set
/// is an object of nulls. Bounded in size and depth, aliases included. Throws UserError.
Json parse_yaml(std::string_view text, std::string_view what);
Json read_yaml(const std::filesystem::path& path);
/// Block style, two spaces; PyYAML and yaml-cpp read it back equal.
std::string dump_yaml(const Json& value);

}  // namespace trestle
