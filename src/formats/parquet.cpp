#include "formats/parquet.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/schema.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/statistics.h>

#include <algorithm>

#include "base/error.h"
#include "base/paths.h"
#include "base/text.h"
#include "formats/arrow_layouts.h"
#include "formats/parquet_json.h"

namespace trestle {

namespace {

constexpr int64_t kMaxRowsOfGroup = 1 << 24;

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

using Field = parquet::arrow::SchemaField;

void add_leaves(const Field& field, std::vector<int>& leaves) {
  if (field.is_leaf()) leaves.push_back(field.column_index);
  for (const Field& child : field.children) add_leaves(child, leaves);
}

const Field* child_of(const std::vector<Field>& fields, std::string_view name) {
  const auto found =
      std::ranges::find_if(fields, [&](const Field& field) { return field.field->name() == name; });
  return found == fields.end() ? nullptr : &*found;
}

// The column that a name as `image.bytes` or `images[].bytes` means, or nullptr. Writers call the
// levels of a list differently; Arrow has found them.
const Field* find_field(const std::vector<Field>& fields, const std::string& name) {
  if (const Field* whole = child_of(fields, name)) return whole;
  const size_t dot = name.find('.');
  if (dot == name.npos) return nullptr;
  const bool is_list = name.substr(0, dot).ends_with("[]");
  const Field* field = child_of(fields, name.substr(0, dot - (is_list ? 2 : 0)));
  if (is_list && field != nullptr) {
    field = field->children.size() == 1 ? field->children.data() : nullptr;
  }
  return field == nullptr ? nullptr : child_of(field->children, name.substr(dot + 1));
}

std::shared_ptr<arrow::io::ReadableFile> opened_file(const std::filesystem::path& path) {
  require_regular_file(path);
  auto input = arrow::io::ReadableFile::Open(path.string());
  if (!input.ok()) user_error("cannot open {}: {}", path.string(), input.status().message());
  return *input;
}

// Thrift makes room for a string or list of the footer before it has seen what is in it; each byte
// or item takes a byte of the file at least.
parquet::ReaderProperties properties_for(int64_t file_size) {
  parquet::ReaderProperties properties;
  const auto bounded = [&](int32_t limit) {
    return static_cast<int32_t>(std::clamp<int64_t>(file_size, 1, limit));
  };
  properties.set_thrift_string_size_limit(bounded(properties.thrift_string_size_limit()));
  properties.set_thrift_container_size_limit(bounded(properties.thrift_container_size_limit()));
  return properties;
}

// Some of Arrow's reasons end in a line break.
[[noreturn]] void refuse(const std::string& path, std::string_view why) {
  user_error("{}: cannot be read as Parquet: {}", path, trimmed(why));
}

// Rows of which the leaf says something, at most: below a list or struct a null may be that of
// another level, so that only a leaf of nothing but nulls counts as none.
int64_t filled_rows(const parquet::FileMetaData& file, int leaf) {
  const auto logical = file.schema()->Column(leaf)->logical_type();
  if (logical && logical->is_null()) return 0;
  const bool is_flat = file.schema()->GetColumnRoot(leaf)->is_primitive();
  int64_t filled = 0;
  for (int group = 0; group < file.num_row_groups(); ++group) {
    const auto rows = file.RowGroup(group);
    const auto chunk = rows->ColumnChunk(leaf);
    const auto statistics = chunk->encoded_statistics();
    const bool knows = statistics && statistics->has_null_count;
    const int64_t nulls = knows ? statistics->null_count : 0;
    const bool is_empty = knows && nulls >= chunk->num_values();
    if (!is_empty) filled += rows->num_rows() - (is_flat ? nulls : 0);
  }
  return filled;
}

std::vector<ParquetColumn> columns_in(const parquet::FileMetaData& file) {
  const parquet::SchemaDescriptor& schema = *file.schema();
  std::vector<ParquetColumn> columns;
  const parquet::schema::Node* last = nullptr;
  for (int leaf = 0; leaf < schema.num_columns(); ++leaf) {
    const parquet::schema::Node* top = schema.GetColumnRoot(leaf);
    if (top != last) columns.push_back({.name = top->name()});
    last = top;
    const parquet::ColumnDescriptor& column = *schema.Column(leaf);
    const auto logical = column.logical_type();
    const bool is_plain = !logical || logical->is_none() || logical->is_invalid();
    ParquetColumn& each = columns.back();
    each.filled = std::max(each.filled, filled_rows(file, leaf));
    each.has_bytes |= column.physical_type() == parquet::Type::BYTE_ARRAY && is_plain;
  }
  return columns;
}

}  // namespace

struct ParquetFile::Reader {
  std::string path;
  std::vector<std::string> names;
  std::unique_ptr<parquet::arrow::FileReader> file;
  // First row of each row group, and the end.
  std::vector<int64_t> starts;
  std::vector<int> leaves;
  int64_t loaded = -1;
  // Of each name its values, and of a list column the lists that they belong to.
  struct Column {
    std::shared_ptr<arrow::Array> values, lists;
    int64_t length() const { return lists ? lists->length() : values->length(); }
  };
  std::vector<Column> columns;

  void check(const arrow::Status& status) const {
    if (!status.ok()) refuse(path, status.message());
  }

  // Loads the row group that holds `row`; returns the row within it.
  int64_t seek(int64_t row) {
    if (row < 0 || row >= starts.back()) {
      user_error("{} has {} rows; row {} was asked for", path, starts.back(), row);
    }
    const auto after = std::upper_bound(starts.begin(), starts.end(), row);
    const auto group = static_cast<int>(after - starts.begin()) - 1;
    if (group != loaded) {
      loaded = -1;
      std::shared_ptr<arrow::Table> table;
      try {
        check(file->ReadRowGroup(group, leaves).Value(&table));
        columns.clear();
        for (const std::string& name : names) columns.push_back(column(*table, name));
        // The footer counts rows, the pages hold them; a damaged file may disagree with itself.
        const int64_t wanted = starts[static_cast<size_t>(group) + 1] - *(after - 1);
        for (const Column& each : columns) {
          if (each.length() != wanted) {
            user_error("{}: row group {} should have {} rows and holds {}; the file is damaged",
                       path, group, wanted, each.length());
          }
        }
      } catch (const parquet::ParquetException& error) {
        refuse(path, error.what());
      }
      loaded = group;
    }
    return row - starts[static_cast<size_t>(group)];
  }

  Column column(const arrow::Table& table, const std::string& name) const {
    // A whole column may have a dot in its own name.
    const size_t dot = table.GetColumnByName(name) ? std::string::npos : name.find('.');
    const bool is_list = name.find("[]") != std::string::npos;
    const auto chunked = table.GetColumnByName(name.substr(0, is_list ? name.find("[]") : dot));
    if (!chunked) user_error("{} has no column {}", path, name);
    auto joined = arrow::Concatenate(chunked->chunks());
    check(joined.status());
    std::shared_ptr<arrow::Array> array = *joined;
    Column result;
    if (is_list) {
      result.lists = array;
      array = list_values(*array);
      if (!array) {
        user_error("{}: column {} is {}, not a list", path, name, result.lists->type()->ToString());
      }
    }
    result.values = array;
    if (dot == std::string::npos) return result;
    if (array->type_id() != arrow::Type::STRUCT) {
      user_error("{}: column {} is {}, not a struct", path, name.substr(0, dot),
                 array->type()->ToString());
    }
    // Flattened, so that a null struct makes its fields null.
    const auto& structs = static_cast<const arrow::StructArray&>(*array);
    const int index = structs.struct_type()->GetFieldIndex(name.substr(dot + 1));
    if (index < 0) user_error("{} has no column {}", path, name);
    auto field = structs.GetFlattenedField(index);
    check(field.status());
    result.values = *field;
    return result;
  }
};

ParquetFile::ParquetFile(const std::filesystem::path& path, std::vector<std::string> columns)
    : reader_(std::make_unique<Reader>()) {
  reader_->path = path.string();
  reader_->names = std::move(columns);
  const auto input = opened_file(path);
  const auto size = input->GetSize();
  reader_->check(size.status());
  try {
    parquet::arrow::FileReaderBuilder builder;
    reader_->check(builder.Open(input, properties_for(*size)));
    // Read where it is asked for: reading ahead would start a pool of threads, which may be
    // refused, for row groups that come one at a time from a local file.
    parquet::ArrowReaderProperties on_this_thread(/*use_threads=*/false);
    on_this_thread.set_pre_buffer(false);
    on_this_thread.set_arrow_extensions_enabled(true);  // JSON and UUIDs are told from texts
    builder.properties(on_this_thread);
    reader_->check(builder.Build(&reader_->file));
    const auto metadata = reader_->file->parquet_reader()->metadata();
    reader_->starts.push_back(0);
    for (int i = 0; i < metadata->num_row_groups(); ++i) {
      // Arrow asks for memory by this number before it has seen a row. A row of ours, a picture and
      // its text, takes a byte at least.
      const int64_t rows = metadata->RowGroup(i)->num_rows();
      const int64_t most = std::min(kMaxRowsOfGroup, *size);
      if (rows < 0 || rows > most) {
        user_error("{}: row group {} claims {} rows in a file of {} bytes; at most {} are read",
                   path.string(), i, rows, *size, most);
      }
      reader_->starts.push_back(reader_->starts.back() + rows);
    }
    // Only leaves under the wanted columns are read.
    for (const std::string& name : reader_->names) {
      const Field* field = find_field(reader_->file->manifest().schema_fields, name);
      if (field == nullptr) user_error("{} has no column {}", path.string(), name);
      add_leaves(*field, reader_->leaves);
    }
  } catch (const parquet::ParquetException& error) {
    refuse(path.string(), error.what());
  }
}

ParquetFile::~ParquetFile() = default;
ParquetFile::ParquetFile(ParquetFile&&) noexcept = default;

int64_t ParquetFile::rows() const { return reader_->starts.back(); }
const std::string& ParquetFile::path() const { return reader_->path; }

std::optional<std::string_view> ParquetFile::bytes(size_t column, int64_t row) const {
  const int64_t index = reader_->seek(row);
  return cell(*reader_->columns[column].values, index, reader_->path, reader_->names[column]);
}

std::vector<std::optional<std::string_view>> ParquetFile::list(size_t column, int64_t row) const {
  const int64_t index = reader_->seek(row);
  const Reader::Column& each = reader_->columns[column];
  std::vector<std::optional<std::string_view>> items;
  if (each.lists->IsNull(index)) return items;
  const auto range = items_of(*each.lists, index);
  if (!range) {
    user_error("{}: column {} row {} leaves its values; the file is damaged", reader_->path,
               reader_->names[column], row);
  }
  for (int64_t i = range->first; i < range->first + range->count; ++i) {
    items.push_back(cell(*each.values, i, reader_->path, reader_->names[column]));
  }
  return items;
}

int64_t ParquetFile::integer(size_t column, int64_t row) const {
  const Json cell = value(column, row);
  const bool fits = !cell.is_number_unsigned() || cell.get<uint64_t>() <= INT64_MAX;
  if (cell.is_number_integer() && fits) return cell.get<int64_t>();
  user_error("{}: column {} row {} is no integer", reader_->path, reader_->names[column], row);
}

Json ParquetFile::value(size_t column, int64_t row) const {
  const int64_t index = reader_->seek(row);
  return json_of_cell(
      *reader_->columns[column].values, index,
      fmt::format("{}: column {} row {}", reader_->path, reader_->names[column], row));
}

std::vector<ParquetColumn> ParquetFile::all_columns() const {
  try {
    return columns_in(*reader_->file->parquet_reader()->metadata());
  } catch (const parquet::ParquetException& error) {
    refuse(path(), error.what());
  }
}

std::vector<ParquetColumn> parquet_columns(const std::filesystem::path& path) {
  try {
    const auto input = opened_file(path);
    const int64_t size = input->GetSize().ValueOr(0);
    const auto file = parquet::ParquetFileReader::Open(input, properties_for(size));
    return columns_in(*file->metadata());
  } catch (const parquet::ParquetException& error) {
    refuse(path.string(), error.what());
  }
}

}  // namespace trestle
