#include "data/parquet_rows.h"

#include <c10/util/Exception.h>

namespace trestle {
namespace fs = std::filesystem;

ParquetRows::ParquetRows(const std::vector<fs::path>& files,
                         const std::vector<std::string>& columns) {
  for (const fs::path& file : files) {
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
