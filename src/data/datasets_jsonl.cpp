#include "base/error.h"
#include "base/file.h"
#include "chat/pictures.h"
#include "data/datasets_own.h"
#include "data/json_mistakes.h"
#include "data/own_row.h"
#include "formats/json_rows.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

class JsonlDataset : public Dataset {
 public:
  explicit JsonlDataset(const fs::path& path) : file_(path), rows_(find_json_rows(file_)) {
    if (rows_.rows.empty()) user_error("{} holds no conversation", path.string());
    refuse_other_files(file_, rows_);
  }

  int64_t size() const override { return std::ssize(rows_.rows); }
  std::vector<fs::path> files() const override { return {file_.path()}; }

  Conversation row(int64_t index) const override {
    Conversation conversation = read_own_row(json(index), name(index));
    find_pictures_in(conversation, file_.path().parent_path());
    return conversation;
  }
  Json ground_truth(int64_t index) const override {
    return own_ground_truth(json(index), name(index));
  }

 private:
  const JsonRows::Row& at(int64_t index) const { return rows_.rows.at(static_cast<size_t>(index)); }

  std::string name(int64_t index) const {
    return fmt::format("{} {}", file_.path().string(), rows_.name(at(index)));
  }

  Json json(int64_t index) const {
    const JsonRows::Row& row = at(index);
    std::string text(row.size, '\0');
    file_.copy(file_.bytes().subspan(row.offset, row.size),
               reinterpret_cast<std::byte*>(text.data()));
    try {
      return parse_json_of_single_keys(text, name(index));
    } catch (const UserError& error) {
      throw UserError(error.what() + (rows_.is_array ? "" : why_no_row(text)));
    }
  }

  MappedFile file_;
  JsonRows rows_;
};

}  // namespace

std::unique_ptr<Dataset> make_jsonl_dataset(const fs::path& path, const std::string&) {
  return std::make_unique<JsonlDataset>(path);
}

}  // namespace trestle
