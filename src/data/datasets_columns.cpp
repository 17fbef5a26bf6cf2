#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "chat/exchange.h"
#include "chat/keys.h"
#include "chat/known_keys.h"
#include "chat/pictures.h"
#include "data/datasets_own.h"
#include "data/own_row.h"
#include "data/parquet_rows.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// The columns of a file that rows are made of, and those that are read to be refused in the rows
// where they say something.
std::vector<std::string> columns_of(const fs::path& path) {
  const std::vector<ParquetColumn> all = parquet_columns(path);
  const auto has = [&](std::string_view name) {
    return std::ranges::find(all, name, &ParquetColumn::name) != all.end();
  };
  const bool has_turns = has("messages") || has("conversations") || has("texts");
  const bool has_pair = std::ranges::any_of(
      question_answer_names(),
      [&](const QuestionAnswer& pair) { return has(pair.question) && has(pair.answer); });
  if (!has_turns && !has_pair) {
    std::vector<std::string> names;
    for (const ParquetColumn& column : all) names.push_back(column.name);
    user_error(
        "{} has neither messages, conversations, texts nor a question and its answer; its columns "
        "are {}",
        path.string(), fmt::join(names, ", "));
  }
  const bool has_pictures = has("image") || has("images");
  std::vector<std::string> columns;
  for (const ParquetColumn& column : all) {
    const std::string& name = column.name;
    const bool is_read = std::ranges::count(row_keys(), name) > 0 || is_answer(name) ||
                         std::ranges::any_of(question_answer_names(), [&](const auto& pair) {
                           return name == pair.question || name == pair.answer;
                         });
    // In a file without a column of pictures, another may hold them or their names.
    const bool may_be_picture =
        !has_pictures && (column.has_bytes || !is_harmless(name) || name.ends_with("name"));
    if (is_read || may_be_picture || loss_without(name)) columns.push_back(name);
  }
  return columns;
}

class ColumnsDataset : public Dataset {
 public:
  explicit ColumnsDataset(const std::vector<fs::path>& files)
      : columns_(columns_of(files.front())), rows_(files, columns_) {
    rows_.require_nothing_lost();
  }

  int64_t size() const override { return rows_.size(); }
  std::vector<fs::path> files() const override { return rows_.files(); }
  std::map<std::string, int64_t> unknown_columns() const override {
    return rows_.unknown_columns();
  }

  Conversation row(int64_t index) const override {
    Cells cells = read(index);
    Conversation conversation = read_own_row(std::move(cells.row), cells.name);
    find_pictures_in(conversation, cells.folder);
    return conversation;
  }

  Json ground_truth(int64_t index) const override {
    Cells cells = read(index);
    return own_ground_truth(std::move(cells.row), cells.name);
  }

 private:
  struct Cells {
    Json row;
    std::string name;
    fs::path folder;
  };

  Cells read(int64_t index) const {
    return rows_.at(index, [&](const ParquetRow& row, const std::string& name) {
      Cells cells{Json::object(), name, fs::path(row.path()).parent_path()};
      for (size_t i = 0; i < columns_.size(); ++i) cells.row[columns_[i]] = row.value(i);
      return cells;
    });
  }

  std::vector<std::string> columns_;
  ParquetRows rows_;
};

}  // namespace

std::unique_ptr<Dataset> make_parquet_dataset(const std::vector<fs::path>& files) {
  return std::make_unique<ColumnsDataset>(files);
}

}  // namespace trestle
