// Rows of a Parquet file by column name. Arrow does the reading; this keeps its types out of the
// rest. Called by the data sets.
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

/// A column at the top of the schema.
struct ParquetColumn {
  std::string name;
  /// Rows in which it says something, at most, as far as the footer counts.
  int64_t filled = 0;
  /// Whether it holds bytes that are no text, as pictures do.
  bool has_bytes = false;
};

class GroupStore;
class ParquetGroup;

/// A row, and with it the decoded row group that it lies in.
class ParquetRow {
 public:
  /// `row` of the file, `index` of the group.
  ParquetRow(std::shared_ptr<const ParquetGroup> group, int64_t row, int64_t index);

  /// Of the file.
  const std::string& path() const;
  int64_t number() const { return row_; }
  /// Bytes or text of one cell; nothing when it is null. Valid as long as the row.
  std::optional<std::string_view> bytes(size_t column) const;
  /// The items of one cell of a list column, likewise; none where it is null.
  std::vector<std::optional<std::string_view>> list(size_t column) const;
  /// A cell of an integer column.
  int64_t integer(size_t column) const;
  /// A cell of a whole column: struct -> object without its null fields, list -> array, map ->
  /// object, text -> string, bytes -> binary, arrow.json -> what its text says, numbers (a decimal
  /// of over 15 digits as its text) and booleans, dates and times -> as they are written; null
  /// where it is null. Each in whatever layout the writer chose (arrow_layouts.h). Throws UserError
  /// for another type, for a map whose keys are no texts, for text that is not UTF-8 and for more
  /// than 16 levels.
  Json value(size_t column) const;

 private:
  std::shared_ptr<const ParquetGroup> group_;
  int64_t row_, index_;
};

class ParquetFile {
 public:
  /// Throws UserError naming the file when it is missing, damaged, or lacks one of `columns`. A
  /// column inside a struct is named with a dot, `image.bytes`, inside a list of structs with
  /// brackets too, `images[].bytes`; a whole column by its name alone. Decoded groups are kept in
  /// `store`; null: the process's.
  ParquetFile(const std::filesystem::path& path, std::vector<std::string> columns,
              const std::shared_ptr<GroupStore>& store = nullptr);
  ~ParquetFile();
  ParquetFile(ParquetFile&&) noexcept;
  ParquetFile& operator=(ParquetFile&&) = delete;
  ParquetFile(const ParquetFile&) = delete;
  ParquetFile& operator=(const ParquetFile&) = delete;

  int64_t rows() const;
  const std::string& path() const;
  /// All of the file's, not those asked for alone.
  std::vector<ParquetColumn> all_columns() const;
  /// May be called from many threads at once. Throws UserError for a row that there is not, and
  /// where its group is damaged.
  ParquetRow row(int64_t row) const;

 private:
  struct Reader;
  std::unique_ptr<Reader> reader_;
};

/// The columns at the top of the schema. Throws as the constructor does.
std::vector<ParquetColumn> parquet_columns(const std::filesystem::path& path);

}  // namespace trestle
