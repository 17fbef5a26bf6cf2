#include "data/parquet_rows.h"

#include <c10/util/Exception.h>

#include "data/splits.h"

namespace trestle {
namespace fs = std::filesystem;

ParquetRows::ParquetRows(const fs::path& path, const std::string& split,
                         const std::vector<std::string>& columns) {
  for (const fs::path& file : files_of_split(path, split, ".parquet")) {
    files_.emplace_back(file, columns);
    size_ += files_.back().rows();
  }
}

std::vector<fs::path> ParquetRows::files() const {
  std::vector<fs::path> files;
  for (const ParquetFile& file : files_) files.emplace_back(file.path());
  return files;
}

void ParquetRows::past_the_end() { TORCH_CHECK(false, "row past the end"); }

}  // namespace trestle
