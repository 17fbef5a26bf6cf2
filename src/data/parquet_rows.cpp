#include "data/parquet_rows.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "base/error.h"
#include "chat/known_keys.h"

namespace trestle {
namespace fs = std::filesystem;

ParquetRows::ParquetRows(const std::vector<fs::path>& files,
                         const std::vector<std::string>& columns,
                         const std::shared_ptr<GroupStore>& store)
    : columns_(columns) {
  for (const fs::path& file : files) {
    files_.emplace_back(file, columns, store);
    size_ += files_.back().rows();
  }
}

template <class Function>
void ParquetRows::each_unread(const Function& fn) const {
  const auto is_read = [&](const std::string& name) {
    return std::ranges::any_of(columns_, [&](const std::string& each) {
      return each == name || each.starts_with(name + ".") || each.starts_with(name + "[].");
    });
  };
  for (const ParquetFile& file : files_) {
    for (const ParquetColumn& column : file.all_columns()) {
      if (column.filled > 0 && !is_read(column.name)) fn(file, column);
    }
  }
}

void ParquetRows::require_nothing_lost() const {
  each_unread([](const ParquetFile& file, const ParquetColumn& column) {
    const auto why = loss_without(column.name);
    if (!why || names_pictures(column.name)) return;
    user_error("{}: nobody reads the column \"{}\": {}; drop it, or read the file with {}",
               file.path(), column.name, *why, "dataset.maker_name=parquet");
  });
}

std::map<std::string, int64_t> ParquetRows::unknown_columns() const {
  std::map<std::string, int64_t> unknown;
  each_unread([&](const ParquetFile&, const ParquetColumn& column) {
    if (!loss_without(column.name) && !is_harmless(column.name)) {
      unknown[column.name] += column.filled;
    }
  });
  return unknown;
}

std::vector<fs::path> ParquetRows::files() const {
  std::vector<fs::path> files;
  for (const ParquetFile& file : files_) files.emplace_back(file.path());
  return files;
}

ParquetRow ParquetRows::find(int64_t index) const {
  for (const ParquetFile& file : files_) {
    if (index < file.rows()) return file.row(index);
    index -= file.rows();
  }
  TORCH_CHECK(false, "row past the end");
}

}  // namespace trestle
