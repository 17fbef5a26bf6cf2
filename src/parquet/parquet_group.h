// A row group of a Parquet file once it is decoded: its cells by column and row. Nothing of it
// changes, so that many threads may read it. Called by parquet.cpp and the store of groups.
#pragma once

#include <arrow/type_fwd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "parquet/arrow_spill.h"

namespace trestle {

/// Of a file: what its groups say in errors, and the columns that are read (ParquetFile).
struct ParquetColumns {
  std::string path;
  std::vector<std::string> names;
};

class ParquetGroup {
 public:
  /// `table` has the columns at the top that `columns` names something of. Throws UserError where
  /// one of them is not of the type that its name asks for, or has not `rows` rows.
  ParquetGroup(std::shared_ptr<const ParquetColumns> columns, const arrow::Table& table, int group,
               int64_t rows);

  /// As ParquetRow says. `index` is of the group, `row` of the file, for errors.
  std::optional<std::string_view> bytes(size_t column, int64_t index) const;
  std::vector<std::optional<std::string_view>> list(size_t column, int64_t index,
                                                    int64_t row) const;
  Json value(size_t column, int64_t index, int64_t row) const;

  const ParquetColumns& columns() const { return *columns_; }
  /// Of all its buffers.
  int64_t size_in_bytes() const;
  /// The same group on a temporary file in `folder`. `spare` and MachineError as spill has them.
  std::shared_ptr<const ParquetGroup> spilled(const std::filesystem::path& folder,
                                              int64_t spare) const;
  /// Of one that is on a file: lets the pages go that were read.
  void release() const;

 private:
  // Of each name its values, and of a list column the lists that they belong to.
  struct Column {
    std::shared_ptr<arrow::Array> values, lists;
  };
  ParquetGroup() = default;
  void find_columns();
  Column find_column(const std::string& name) const;

  std::shared_ptr<const ParquetColumns> columns_;
  std::shared_ptr<arrow::Schema> schema_;
  std::vector<std::shared_ptr<arrow::Array>> arrays_;  // one a field of the schema
  std::vector<Column> found_;                          // one a name
  std::shared_ptr<const SpilledFile> file_;            // null: in memory
};

}  // namespace trestle
