// Another program run to its end. Called where Weights & Biases' own uploader is started.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace trestle {

/// Whether $PATH has an executable of this name.
bool is_on_path(const std::string& program);

/// Runs `arguments[0]` (looked for on $PATH) without input, its output and errors in `output`, and
/// waits. Its exit status; as timeout(1) and shells have it, 124 when it was ended because it took
/// longer than `limit`, 127 when it could not be started, 128 + the signal that ended it.
int run_child(const std::vector<std::string>& arguments, const std::filesystem::path& output,
              std::chrono::seconds limit);

}  // namespace trestle
