#include "formats/parquet.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>

#include <algorithm>

#include "base/error.h"
#include "base/paths.h"
#include "base/text.h"
#include "formats/parquet_json.h"

namespace trestle {

namespace {

constexpr int64_t kMaxRowsOfGroup = 1 << 24;

// A leaf's path as callers name it: writers call the levels of a list differently.
std::string plain_path(std::string path) {
  for (const std::string level : {".list.element", ".list.item", ".bag.array_element"}) {
    if (const size_t at = path.find(level); at != std::string::npos) {
      path.replace(at, level.size(), "[]");
    }
  }
  return path;
}

std::optional<std::string_view> cell(const arrow::Array& array, int64_t index,
                                     const std::string& path, const std::string& name) {
  if (array.IsNull(index)) return std::nullopt;
  switch (array.type_id()) {
    case arrow::Type::BINARY:
    case arrow::Type::STRING:
      return static_cast<const arrow::BinaryArray&>(array).GetView(index);
    case arrow::Type::LARGE_BINARY:
    case arrow::Type::LARGE_STRING:
      return static_cast<const arrow::LargeBinaryArray&>(array).GetView(index);
    default:
      user_error("{}: column {} is {}, not bytes or text", path, name, array.type()->ToString());
  }
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
      if (array->type_id() != arrow::Type::LIST) {
        user_error("{}: column {} is {}, not a list", path, name, array->type()->ToString());
      }
      result.lists = array;
      array = static_cast<const arrow::ListArray&>(*array).values();
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
    const parquet::SchemaDescriptor* schema = metadata->schema();
    for (const std::string& name : reader_->names) {
      bool found = false;
      for (int leaf = 0; leaf < schema->num_columns(); ++leaf) {
        const std::string dotted = schema->Column(leaf)->path()->ToDotString();
        if (plain_path(dotted) == name || dotted.starts_with(name + ".")) {
          reader_->leaves.push_back(leaf);
          found = true;
        }
      }
      if (!found) user_error("{} has no column {}", path.string(), name);
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
  const auto& lists = static_cast<const arrow::ListArray&>(*each.lists);
  std::vector<std::optional<std::string_view>> items;
  if (lists.IsNull(index)) return items;
  const int64_t first = lists.value_offset(index), count = lists.value_length(index);
  if (first < 0 || count < 0 || first > each.values->length() - count) {
    user_error("{}: column {} row {} leaves its values; the file is damaged", reader_->path,
               reader_->names[column], row);
  }
  for (int64_t i = first; i < first + count; ++i) {
    items.push_back(cell(*each.values, i, reader_->path, reader_->names[column]));
  }
  return items;
}

int64_t ParquetFile::integer(size_t column, int64_t row) const {
  const int64_t index = reader_->seek(row);
  const arrow::Array& array = *reader_->columns[column].values;
  if (!array.IsNull(index)) {
    if (array.type_id() == arrow::Type::INT32) {
      return static_cast<const arrow::Int32Array&>(array).Value(index);
    }
    if (array.type_id() == arrow::Type::INT64) {
      return static_cast<const arrow::Int64Array&>(array).Value(index);
    }
  }
  user_error("{}: column {} row {} is no integer", reader_->path, reader_->names[column], row);
}

Json ParquetFile::value(size_t column, int64_t row) const {
  const int64_t index = reader_->seek(row);
  return json_of_cell(
      *reader_->columns[column].values, index,
      fmt::format("{}: column {} row {}", reader_->path, reader_->names[column], row));
}

std::vector<std::string> parquet_columns(const std::filesystem::path& path) {
  std::vector<std::string> names;
  try {
    const auto input = opened_file(path);
    const int64_t size = input->GetSize().ValueOr(0);
    const auto file = parquet::ParquetFileReader::Open(input, properties_for(size));
    const auto* root = file->metadata()->schema()->group_node();
    for (int i = 0; i < root->field_count(); ++i) names.push_back(root->field(i)->name());
  } catch (const parquet::ParquetException& error) {
    refuse(path.string(), error.what());
  }
  return names;
}

}  // namespace trestle
