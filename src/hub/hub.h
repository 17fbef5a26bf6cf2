// A checkpoint by its name on the Hugging Face Hub, ORG/NAME or ORG/NAME@REVISION, where a
// directory is taken. Called by every command with such a flag, before it opens what the flag
// names.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "hub/files.h"

namespace trestle {

/// The directory that `given` names: itself where it exists, or where it can be no name of the Hub;
/// else its snapshot in huggingface_hub's cache, with what of `wanted` is missing downloaded (see
/// docs/hub.md for the environment that is heeded). A snapshot in the cache is used without the
/// network offline and for a commit, and with one line of warning where the Hub does not answer.
///
/// Throws UserError (no such repository or revision, a token refused, nothing of use in it, offline
/// and not in the cache) and MachineError (network, checksum, disk); each begins with `flag` and
/// `given`.
std::filesystem::path resolve_model(const std::string& given, std::string_view flag,
                                    HubFiles wanted = HubFiles::kModel);

}  // namespace trestle
