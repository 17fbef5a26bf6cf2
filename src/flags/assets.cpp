#include "flags/assets.h"

#include "base/file.h"

namespace trestle {
namespace fs = std::filesystem;

// build/PRESET/trestle -> ../../assets/demo
fs::path find_assets(const std::string& given) {
  const fs::path path =
      given.empty() ? fs::read_symlink("/proc/self/exe").parent_path().parent_path().parent_path() /
                          "assets/demo"
                    : fs::path(given);
  require_directory(path, "--assets");
  require_directory(path / "model", "demo model (--assets)");
  require_directory(path / "data", "demo data (--assets)");
  return path;
}

}  // namespace trestle
