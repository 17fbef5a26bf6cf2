// Rows of a Parquet file by column name, one row group in memory at a time. Arrow does the reading;
// this keeps its types out of the rest. Called by the data sets.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace trestle {

class ParquetFile {
 public:
  /// Throws UserError naming the file when it is missing, damaged, or lacks one of `columns`. A
  /// column inside a struct is named with a dot, `image.bytes`, inside a list of structs with
  /// brackets too, `images[].bytes`; a whole column by its name alone.
  ParquetFile(const std::filesystem::path& path, std::vector<std::string> columns);
  ~ParquetFile();
  ParquetFile(ParquetFile&&) noexcept;
  ParquetFile& operator=(ParquetFile&&) = delete;
  ParquetFile(const ParquetFile&) = delete;
  ParquetFile& operator=(const ParquetFile&) = delete;

  int64_t rows() const;
  const std::string& path() const;
  /// Bytes or text of one cell; nothing when it is null. Valid until a row of another row group is
  /// asked for.
  std::optional<std::string_view> bytes(size_t column, int64_t row) const;
  /// The items of one cell of a list column, likewise; none where it is null.
  std::vector<std::optional<std::string_view>> list(size_t column, int64_t row) const;
  /// A cell of an integer column.
  int64_t integer(size_t column, int64_t row) const;
  /// A cell of a whole column: struct -> object without its null fields, list -> array, text ->
  /// string, bytes -> binary, numbers and booleans; null where it is null. Throws UserError for
  /// another type (dates, decimals, maps), for text that is not UTF-8 and for more than 16 levels.
  Json value(size_t column, int64_t row) const;

 private:
  struct Reader;
  std::unique_ptr<Reader> reader_;
};

/// Names of the columns at the top of the schema. Throws as the constructor does.
std::vector<std::string> parquet_columns(const std::filesystem::path& path);

}  // namespace trestle
