#include "data/datasets.h"

#include <fstream>
#include <functional>
#include <map>

#include "base/error.h"
#include "base/fields.h"
#include "base/file.h"
#include "data/chat_json.h"
#include "data/datasets_parquet.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// One conversation a line; picture paths are relative to the file.
class JsonlDataset : public Dataset {
 public:
  explicit JsonlDataset(const fs::path& path) : path_(path) {
    std::ifstream file(path);
    if (!file) user_error("cannot open {}", path.string());
    for (std::string line; std::getline(file, line);) {
      if (line.find_first_not_of(" \t\r") != std::string::npos) lines_.push_back(std::move(line));
    }
    if (lines_.empty()) user_error("{} holds no conversation", path.string());
  }

  int64_t size() const override { return static_cast<int64_t>(lines_.size()); }

  Conversation row(int64_t index) const override {
    const std::string name = fmt::format("{} line {}", path_.string(), index + 1);
    Conversation conversation =
        parse_conversation(parse_json(lines_[static_cast<size_t>(index)], name), name);
    for (Message& message : conversation.messages) {
      for (Part& part : message.parts) {
        std::string& source = part.image.source;
        if (part.kind == Part::Kind::kImage && source.find(':') == std::string::npos &&
            !source.starts_with('/')) {
          source = (path_.parent_path() / source).string();
        }
      }
    }
    return conversation;
  }

 private:
  fs::path path_;
  std::vector<std::string> lines_;
};

using Maker = std::function<std::unique_ptr<Dataset>(const fs::path&, const std::string&)>;

const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> table = {
      {"make_cord_v2_dataset", make_cord_v2_dataset},
      {"make_medpix_dataset", make_medpix_dataset},
      {"make_raven_dataset", make_raven_dataset},
      {"jsonl", [](const fs::path& path,
                   const std::string&) { return std::make_unique<JsonlDataset>(path); }},
  };
  return table;
}

}  // namespace

std::vector<std::string> dataset_makers() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : makers()) names.push_back(name);
  return names;
}

std::unique_ptr<Dataset> make_dataset(const std::string& maker, const fs::path& path,
                                      const std::string& split) {
  const auto found = makers().find(maker);
  if (found == makers().end()) {
    user_error("dataset.maker_name={} is not known; did you mean {}?", maker,
               nearest(maker, dataset_makers()));
  }
  return found->second(path, split);
}

}  // namespace trestle
