// The rows of several Parquet files as one list. Called by the data sets from Parquet.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <map>
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
  /// Throws UserError where a file has a column that is not read and would be lost with what it
  /// says (chat/known_keys.h): a system prompt, sounds, a question beside messages.
  void require_nothing_lost() const;
  /// Columns that are not read and that nobody knows, and in how many rows at most they say
  /// something.
  std::map<std::string, int64_t> unknown_columns() const;
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

  // fn(file, column) for those that are not read and say something.
  template <class Function>
  void each_unread(const Function& fn) const;

  std::vector<std::string> columns_;
  std::vector<ParquetFile> files_;
  int64_t size_ = 0;
  mutable std::mutex mutex_;
};

}  // namespace trestle
