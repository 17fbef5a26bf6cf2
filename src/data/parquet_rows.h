// The rows of several Parquet files as one list. Called by the data sets from Parquet.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parquet/parquet.h"

namespace trestle {

class ParquetRows {
 public:
  /// `store`: as ParquetFile has it.
  ParquetRows(const std::vector<std::filesystem::path>& files,
              const std::vector<std::string>& columns,
              const std::shared_ptr<GroupStore>& store = nullptr);

  int64_t size() const { return size_; }
  /// Throws UserError where a file has a column that is not read and would be lost with what it
  /// says (chat/known_keys.h): a system prompt, sounds, a question beside messages.
  void require_nothing_lost() const;
  /// Columns that are not read and that nobody knows, and in how many rows at most they say
  /// something.
  std::map<std::string, int64_t> unknown_columns() const;
  /// In the order of their rows.
  std::vector<std::filesystem::path> files() const;

  /// fn(ParquetRow, "FILE row N"). From many threads at once.
  template <class Function>
  auto at(int64_t index, const Function& fn) const {
    const ParquetRow row = find(index);
    return fn(row, fmt::format("{} row {}", row.path(), row.number()));
  }

 private:
  ParquetRow find(int64_t index) const;

  // fn(file, column) for those that are not read and say something.
  template <class Function>
  void each_unread(const Function& fn) const;

  std::vector<std::string> columns_;
  std::vector<ParquetFile> files_;
  int64_t size_ = 0;
};

}  // namespace trestle
