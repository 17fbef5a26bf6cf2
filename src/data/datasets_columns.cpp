#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "chat/exchange.h"
#include "chat/json.h"
#include "data/datasets_own.h"
#include "data/parquet_rows.h"
#include "data/splits.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// Which columns of a file make a conversation.
struct Columns {
  std::vector<std::string> names;
  const QuestionAnswer* pair = nullptr;  // else the first name is that of the messages
};

Columns columns_of(const fs::path& path) {
  const std::vector<std::string> all = parquet_columns(path);
  const auto has = [&](const char* name) { return std::ranges::count(all, name) > 0; };
  Columns columns;
  for (const char* name : {"messages", "conversations"}) {
    if (columns.names.empty() && has(name)) columns.names = {name};
  }
  for (const QuestionAnswer& pair : question_answer_names()) {
    if (columns.names.empty() && has(pair.question) && has(pair.answer)) {
      columns = {{pair.question, pair.answer}, &pair};
    }
  }
  if (columns.names.empty()) {
    user_error(
        "{} has neither messages, conversations nor a question and its answer; its columns are {}",
        path.string(), fmt::join(all, ", "));
  }
  for (const char* name : {"images", "image", "tools", "reasoning_effort", "response_format"}) {
    if (has(name)) columns.names.emplace_back(name);
  }
  // Read to be refused in the rows where they say something.
  for (const LostKey& lost : lost_row_keys()) {
    if (std::ranges::count(all, lost.key) > 0) columns.names.emplace_back(lost.key);
  }
  for (const QuestionAnswer& pair : question_answer_names()) {
    if (!has(pair.question) || !has(pair.answer)) continue;
    // The chosen question's other answers are a note of the data set.
    if (std::ranges::count(columns.names, pair.question) > 0) continue;
    for (const char* name : {pair.question, pair.answer}) {
      if (std::ranges::count(columns.names, name) == 0) columns.names.emplace_back(name);
    }
  }
  return columns;
}

class ColumnsDataset : public Dataset {
 public:
  ColumnsDataset(const fs::path& path, const std::string& split)
      : columns_(columns_of(files_of_split(path, split, ".parquet").front())),
        rows_(path, split, columns_.names) {}

  int64_t size() const override { return rows_.size(); }
  std::vector<fs::path> files() const override { return rows_.files(); }

  Conversation row(int64_t index) const override {
    Cells cells = read(index);
    if (columns_.pair != nullptr) make_messages(cells.row, *columns_.pair, cells.name);
    Conversation conversation = parse_conversation(cells.row, cells.name);
    find_pictures_in(conversation, cells.folder);
    return conversation;
  }

  Json ground_truth(int64_t index) const override {
    if (columns_.pair == nullptr) return nullptr;
    Cells cells = read(index);
    return make_messages(cells.row, *columns_.pair, cells.name);
  }

 private:
  struct Cells {
    Json row;
    std::string name;
    fs::path folder;
  };

  Cells read(int64_t index) const {
    return rows_.at(index, [&](const ParquetFile& file, int64_t row, const std::string& name) {
      Cells cells{Json::object(), name, fs::path(file.path()).parent_path()};
      for (size_t i = 0; i < columns_.names.size(); ++i) {
        cells.row[columns_.names[i]] = file.value(i, row);
      }
      const std::string& first = columns_.names.front();
      if (columns_.pair == nullptr && cells.row[first].is_string()) {
        cells.row[first] = parse_json_of_single_keys(cells.row[first].get<std::string>(),
                                                     cells.name + ": " + first);
      }
      return cells;
    });
  }

  Columns columns_;
  ParquetRows rows_;
};

}  // namespace

std::unique_ptr<Dataset> make_parquet_dataset(const fs::path& path, const std::string& split) {
  return std::make_unique<ColumnsDataset>(path, split);
}

}  // namespace trestle
