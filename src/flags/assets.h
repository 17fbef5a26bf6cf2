// The embedded model and data of the demo. Called by demo and rehearse.
#pragma once

#include <filesystem>
#include <string>

namespace trestle {

/// The folder with `model` and `data`: `given` (--assets) or assets/demo beside the source tree
/// that the program was built in. Throws UserError where it is not whole.
std::filesystem::path find_assets(const std::string& given);

}  // namespace trestle
