#include "data/parquet_rows.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"

namespace trestle {
namespace fs = std::filesystem;

std::vector<fs::path> files_of_split(const fs::path& path, const std::string& split,
                                     const std::string& extension) {
  if (kind_of(path) == "a regular file") return {path};
  require_directory(path, "dataset.path_or_dataset");
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == extension && name.find(split) != std::string::npos) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    user_error("{} holds no {} file of split '{}'", path.string(), extension, split);
  }
  return files;
}

ParquetRows::ParquetRows(const fs::path& path, const std::string& split,
                         const std::vector<std::string>& columns) {
  for (const fs::path& file : files_of_split(path, split, ".parquet")) {
    files_.emplace_back(file, columns);
    size_ += files_.back().rows();
  }
}

void ParquetRows::past_the_end() { TORCH_CHECK(false, "row past the end"); }

}  // namespace trestle
