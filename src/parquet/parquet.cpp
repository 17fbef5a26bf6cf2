#include "parquet/parquet.h"

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
#include "parquet/parquet_group.h"
#include "parquet/parquet_store.h"

namespace trestle {

namespace {

constexpr int64_t kMaxRowsOfGroup = 1 << 24;

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

// Some of Arrow's reasons are several lines, or end in a line break.
[[noreturn]] void refuse(const std::string& path, std::string_view why) {
  user_error("{}: cannot be read as Parquet: {}", path, one_line(std::string(trimmed(why))));
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
  std::shared_ptr<ParquetColumns> columns = std::make_shared<ParquetColumns>();
  std::shared_ptr<arrow::io::ReadableFile> input;
  parquet::ReaderProperties properties;
  std::shared_ptr<parquet::FileMetaData> footer;
  // First row of each row group, and the end.
  std::vector<int64_t> starts;
  std::vector<int> leaves;
  std::shared_ptr<GroupStore> store;
  std::vector<std::shared_ptr<GroupStore::Slot>> slots;  // one a group

  const std::string& path() const { return columns->path; }
  void check(const arrow::Status& status) const {
    if (!status.ok()) refuse(path(), status.message());
  }

  // Each decoding has a reader of its own: Arrow's is for one thread.
  std::unique_ptr<parquet::arrow::FileReader> open() const {
    parquet::arrow::FileReaderBuilder builder;
    check(builder.Open(input, properties, footer));
    // Read where it is asked for: reading ahead would start a pool of threads, which may be
    // refused, for row groups that come one at a time from a local file.
    parquet::ArrowReaderProperties on_this_thread(/*use_threads=*/false);
    on_this_thread.set_pre_buffer(false);
    on_this_thread.set_arrow_extensions_enabled(true);  // JSON and UUIDs are told from texts
    builder.properties(on_this_thread);
    std::unique_ptr<parquet::arrow::FileReader> reader;
    check(builder.Build(&reader));
    return reader;
  }

  int64_t rows_of(int group) const {
    const auto at = static_cast<size_t>(group);
    return starts[at + 1] - starts[at];
  }

  // What its columns take once they are decompressed, as the footer has it: a guess.
  int64_t decoded_size(int group) const {
    constexpr int64_t kMost = int64_t{1} << 40;
    const auto rows = footer->RowGroup(group);
    int64_t size = 0;
    for (const int leaf : leaves) {
      size += std::clamp<int64_t>(rows->ColumnChunk(leaf)->total_uncompressed_size(), 0, kMost);
    }
    return std::min(size, kMost);
  }

  std::shared_ptr<const ParquetGroup> decode(int group) const {
    try {
      std::shared_ptr<arrow::Table> table;
      check(open()->ReadRowGroup(group, leaves).Value(&table));
      return std::make_shared<const ParquetGroup>(columns, *table, group, rows_of(group));
    } catch (const parquet::ParquetException& error) {
      refuse(path(), error.what());
    }
  }
};

ParquetFile::ParquetFile(const std::filesystem::path& path, std::vector<std::string> columns,
                         const std::shared_ptr<GroupStore>& store)
    : reader_(std::make_unique<Reader>()) {
  reader_->columns->path = path.string();
  reader_->columns->names = std::move(columns);
  reader_->store = store ? store : GroupStore::of_process();
  reader_->input = opened_file(path);
  const auto size = reader_->input->GetSize();
  reader_->check(size.status());
  reader_->properties = properties_for(*size);
  try {
    const auto file = reader_->open();
    reader_->footer = file->parquet_reader()->metadata();
    reader_->starts.push_back(0);
    for (int i = 0; i < reader_->footer->num_row_groups(); ++i) {
      // Arrow asks for memory by this number before it has seen a row. A row of ours, a picture and
      // its text, takes a byte at least.
      const int64_t rows = reader_->footer->RowGroup(i)->num_rows();
      const int64_t most = std::min(kMaxRowsOfGroup, *size);
      if (rows < 0 || rows > most) {
        user_error("{}: row group {} claims {} rows in a file of {} bytes; at most {} are read",
                   path.string(), i, rows, *size, most);
      }
      reader_->starts.push_back(reader_->starts.back() + rows);
    }
    // Only leaves under the wanted columns are read.
    for (const std::string& name : reader_->columns->names) {
      const Field* field = find_field(file->manifest().schema_fields, name);
      if (field == nullptr) user_error("{} has no column {}", path.string(), name);
      add_leaves(*field, reader_->leaves);
    }
    for (int i = 0; i < reader_->footer->num_row_groups(); ++i) {
      reader_->slots.push_back(
          std::make_shared<GroupStore::Slot>(reader_->rows_of(i), reader_->decoded_size(i)));
    }
  } catch (const parquet::ParquetException& error) {
    refuse(path.string(), error.what());
  }
}

ParquetFile::~ParquetFile() = default;
ParquetFile::ParquetFile(ParquetFile&&) noexcept = default;

int64_t ParquetFile::rows() const { return reader_->starts.back(); }
const std::string& ParquetFile::path() const { return reader_->path(); }

ParquetRow ParquetFile::row(int64_t row) const {
  const std::vector<int64_t>& starts = reader_->starts;
  if (row < 0 || row >= starts.back()) {
    user_error("{} has {} rows; row {} was asked for", path(), starts.back(), row);
  }
  const auto after = std::upper_bound(starts.begin(), starts.end(), row);
  const auto group = static_cast<size_t>(after - starts.begin()) - 1;
  return {reader_->store->get(reader_->slots[group],
                              [&] { return reader_->decode(static_cast<int>(group)); }),
          row, row - starts[group]};
}

ParquetRow::ParquetRow(std::shared_ptr<const ParquetGroup> group, int64_t row, int64_t index)
    : group_(std::move(group)), row_(row), index_(index) {}

const std::string& ParquetRow::path() const { return group_->columns().path; }

std::optional<std::string_view> ParquetRow::bytes(size_t column) const {
  return group_->bytes(column, index_);
}

std::vector<std::optional<std::string_view>> ParquetRow::list(size_t column) const {
  return group_->list(column, index_, row_);
}

Json ParquetRow::value(size_t column) const { return group_->value(column, index_, row_); }

int64_t ParquetRow::integer(size_t column) const {
  const Json cell = value(column);
  const bool fits = !cell.is_number_unsigned() || cell.get<uint64_t>() <= INT64_MAX;
  if (cell.is_number_integer() && fits) return cell.get<int64_t>();
  user_error("{}: column {} row {} is no integer", path(), group_->columns().names[column], row_);
}

std::vector<ParquetColumn> ParquetFile::all_columns() const {
  try {
    return columns_in(*reader_->footer);
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
