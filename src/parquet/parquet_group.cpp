#include "parquet/parquet_group.h"

#include <arrow/api.h>
#include <arrow/util/byte_size.h>

#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "parquet/arrow_layouts.h"
#include "parquet/parquet_json.h"

namespace trestle {

namespace {

std::optional<std::string_view> cell(const arrow::Array& array, int64_t index,
                                     const std::string& path, const std::string& name) {
  if (array.IsNull(index)) return std::nullopt;
  if (array.type_id() == arrow::Type::NA) return std::nullopt;
  const auto bytes = bytes_of(array, index);
  if (!bytes) {
    user_error("{}: column {} is {}, not bytes or text", path, name, array.type()->ToString());
  }
  return bytes;
}

// Some of Arrow's reasons are several lines, or end in a line break.
void check(const arrow::Status& status, const std::string& path) {
  if (!status.ok()) {
    user_error("{}: cannot be read as Parquet: {}", path,
               one_line(std::string(trimmed(status.message()))));
  }
}

std::shared_ptr<arrow::Array> joined(const arrow::ChunkedArray& chunked, const std::string& path) {
  if (chunked.num_chunks() == 1) return chunked.chunk(0);  // Concatenate would copy it
  auto array = arrow::Concatenate(chunked.chunks());
  check(array.status(), path);
  return *array;
}

}  // namespace

ParquetGroup::ParquetGroup(std::shared_ptr<const ParquetColumns> columns, const arrow::Table& table,
                           int group, int64_t rows)
    : columns_(std::move(columns)), schema_(table.schema()) {
  for (const auto& chunked : table.columns()) {
    arrays_.push_back(joined(*chunked, columns_->path));
    // The footer counts rows, the pages hold them; a damaged file may disagree with itself.
    const int64_t held = arrays_.back()->length();
    if (held != rows) {
      user_error("{}: row group {} should have {} rows and holds {}; the file is damaged",
                 columns_->path, group, rows, held);
    }
  }
  find_columns();
}

void ParquetGroup::find_columns() {
  for (const std::string& name : columns_->names) found_.push_back(find_column(name));
}

ParquetGroup::Column ParquetGroup::find_column(const std::string& name) const {
  // A whole column may have a dot in its own name.
  const size_t dot = schema_->GetFieldIndex(name) >= 0 ? std::string::npos : name.find('.');
  const bool is_list = name.find("[]") != std::string::npos;
  const int at = schema_->GetFieldIndex(name.substr(0, is_list ? name.find("[]") : dot));
  if (at < 0) user_error("{} has no column {}", columns_->path, name);
  std::shared_ptr<arrow::Array> array = arrays_[static_cast<size_t>(at)];
  Column result;
  if (is_list) {
    result.lists = array;
    array = list_values(*array);
    if (!array) {
      user_error("{}: column {} is {}, not a list", columns_->path, name,
                 result.lists->type()->ToString());
    }
  }
  result.values = array;
  if (dot == std::string::npos) return result;
  if (array->type_id() != arrow::Type::STRUCT) {
    user_error("{}: column {} is {}, not a struct", columns_->path, name.substr(0, dot),
               array->type()->ToString());
  }
  // Flattened, so that a null struct makes its fields null.
  const auto& structs = static_cast<const arrow::StructArray&>(*array);
  const int index = structs.struct_type()->GetFieldIndex(name.substr(dot + 1));
  if (index < 0) user_error("{} has no column {}", columns_->path, name);
  auto field = structs.GetFlattenedField(index);
  check(field.status(), columns_->path);
  result.values = *field;
  return result;
}

std::optional<std::string_view> ParquetGroup::bytes(size_t column, int64_t index) const {
  return cell(*found_[column].values, index, columns_->path, columns_->names[column]);
}

std::vector<std::optional<std::string_view>> ParquetGroup::list(size_t column, int64_t index,
                                                                int64_t row) const {
  const Column& each = found_[column];
  std::vector<std::optional<std::string_view>> items;
  if (each.lists->IsNull(index)) return items;
  const auto range = items_of(*each.lists, index);
  if (!range) {
    user_error("{}: column {} row {} leaves its values; the file is damaged", columns_->path,
               columns_->names[column], row);
  }
  for (int64_t i = range->first; i < range->first + range->count; ++i) {
    items.push_back(cell(*each.values, i, columns_->path, columns_->names[column]));
  }
  return items;
}

Json ParquetGroup::value(size_t column, int64_t index, int64_t row) const {
  return json_of_cell(
      *found_[column].values, index,
      fmt::format("{}: column {} row {}", columns_->path, columns_->names[column], row));
}

int64_t ParquetGroup::size_in_bytes() const {
  int64_t size = 0;
  for (const auto& array : arrays_) size += arrow::util::TotalBufferSize(*array);
  return size;
}

std::shared_ptr<const ParquetGroup> ParquetGroup::spilled(const std::filesystem::path& folder,
                                                          int64_t spare) const {
  SpilledArrays moved = spill(arrays_, folder, spare);
  std::shared_ptr<ParquetGroup> group(new ParquetGroup);
  group->columns_ = columns_;
  group->schema_ = schema_;
  group->arrays_ = std::move(moved.arrays);
  group->file_ = std::move(moved.file);
  group->find_columns();
  return group;
}

void ParquetGroup::release() const {
  if (file_) file_->release();
}

}  // namespace trestle
