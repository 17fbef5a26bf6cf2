// The rows of several Parquet files as one list. Called by the data sets from Parquet.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "formats/parquet.h"

namespace trestle {

class ParquetRows {
 public:
  ParquetRows(const std::vector<std::filesystem::path>& files,
              const std::vector<std::string>& columns);

  int64_t size() const { return size_; }
  /// In the order of their rows.
  std::vector<std::filesystem::path> files() const;

  /// fn(file, row within it, "FILE row N"). A Parquet reader keeps one row group, so one at a time:
  /// other threads wait.
  template <class Function>
  auto at(int64_t index, const Function& fn) const {
    const std::scoped_lock lock(mutex_);
    for (const ParquetFile& file : files_) {
      if (index < file.rows()) return fn(file, index, fmt::format("{} row {}", file.path(), index));
      index -= file.rows();
    }
    past_the_end();
  }

 private:
  [[noreturn]] static void past_the_end();

  std::vector<ParquetFile> files_;
  int64_t size_ = 0;
  mutable std::mutex mutex_;
};

}  // namespace trestle
