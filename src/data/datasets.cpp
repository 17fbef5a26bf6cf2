#include "data/datasets.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>

#include "base/error.h"
#include "base/fields.h"
#include "base/file.h"
#include "data/chat_json.h"
#include "data/cord.h"
#include "data/parquet.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

std::vector<fs::path> parquet_files(const fs::path& path, const std::string& split) {
  if (fs::is_regular_file(path)) return {path};
  require_directory(path, "dataset.path_or_dataset");
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".parquet" && name.find(split) != std::string::npos) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) user_error("{} holds no .parquet file of split '{}'", path.string(), split);
  return files;
}

// naver-clova-ix/cord-v2: image {bytes, path}, ground_truth JSON with gt_parse. Prompt and target
// are Megatron Bridge's make_cord_v2_dataset.
class CordDataset : public Dataset {
 public:
  CordDataset(const fs::path& path, const std::string& split) {
    for (const fs::path& file : parquet_files(path, split)) {
      files_.emplace_back(file, ParquetFile(file, {"image.bytes", "ground_truth"}));
      size_ += files_.back().second.rows();
    }
  }

  int64_t size() const override { return size_; }

  Conversation row(int64_t index) const override {
    const std::scoped_lock lock(mutex_);
    const auto [file, local] = find(index);
    const std::string name = fmt::format("{} row {}", file->first.string(), local);
    const auto bytes = file->second.bytes(0, local);
    if (!bytes) user_error("{} has no image", name);
    Message user = text_message(Role::kUser, "Describe this image.");
    Part picture{.kind = Part::Kind::kImage};
    picture.image.source = name;
    picture.image.bytes = std::make_shared<const std::string>(*bytes);
    user.parts.insert(user.parts.begin(), std::move(picture));
    return {{user, text_message(Role::kAssistant, json_to_tags(parse_truth(*file, local)))},
            nullptr};
  }

  Json ground_truth(int64_t index) const override {
    const std::scoped_lock lock(mutex_);
    const auto [file, local] = find(index);
    return parse_truth(*file, local);
  }

 private:
  using File = std::pair<fs::path, ParquetFile>;

  std::pair<const File*, int64_t> find(int64_t index) const {
    for (const File& file : files_) {
      if (index < file.second.rows()) return {&file, index};
      index -= file.second.rows();
    }
    TORCH_CHECK(false, "row past the end");
  }

  static Json parse_truth(const File& file, int64_t row) {
    const std::string name = fmt::format("{} row {}", file.first.string(), row);
    const auto text = file.second.bytes(1, row);
    const Json truth = text ? parse_json(*text, name) : Json();
    if (!truth.is_object() || !truth.contains("gt_parse") || !truth["gt_parse"].is_object()) {
      user_error("{}: ground_truth has no gt_parse object", name);
    }
    return truth["gt_parse"];
  }

  std::vector<File> files_;
  int64_t size_ = 0;
  mutable std::mutex mutex_;  // a Parquet reader keeps one row group
};

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
      {"make_cord_v2_dataset",
       [](const fs::path& path, const std::string& split) {
         return std::make_unique<CordDataset>(path, split);
       }},
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
