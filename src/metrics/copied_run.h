// Whether a run's directory is a copy of one that is still there, so that what both tell a tracker
// would become one run there. Called by the W&B run and by MLflow's.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// The first line of a file that keeps a tracker's id, without spaces around it; empty where there
/// is no file. Throws UserError for a file of more than 16 KiB.
std::string kept_id(const std::filesystem::path& file);

/// `began_in`, the directory in which a tracker's run was begun, where that is another directory
/// than `save` and its file `id_name` keeps the id that the one of `save` keeps. One that was moved
/// has left none behind.
std::optional<std::filesystem::path> original_of(const std::filesystem::path& save,
                                                 const std::filesystem::path& began_in,
                                                 std::string_view id_name);

}  // namespace trestle
