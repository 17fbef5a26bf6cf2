#include <algorithm>
#include <cctype>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "chat/exchange.h"
#include "chat/json.h"
#include "chat/keys.h"
#include "data/datasets_own.h"
#include "data/own_row.h"
#include "data/splits.h"
#include "formats/braces.h"
#include "formats/tar.h"
#include "image/fetch.h"
#include "tokenizer/utf8.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kJson = "json", kText = "txt";

// A member's name as the webdataset package splits it; both empty where it belongs to no sample.
struct Name {
  std::string_view key;
  std::string extension;  // all behind the first dot, in lower case
};

Name split_name(std::string_view name) {
  const size_t slash = name.rfind('/');
  const size_t file = slash == name.npos ? 0 : slash + 1;
  const size_t dot = name.find('.', file);
  if (dot == name.npos || dot == file) return {};
  // "__worker__/..." and the like are the package's own notes.
  const std::string_view first = name.substr(0, name.find('/'));
  if (first.size() >= 4 && first.starts_with("__") && first.ends_with("__")) return {};
  Name result{name.substr(0, dot), std::string(name.substr(dot + 1))};
  std::ranges::transform(result.extension, result.extension.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

// By what is behind the last dot.
bool is_one_of(const std::set<std::string_view>& kinds, std::string_view extension) {
  return kinds.contains(extension.substr(extension.rfind('.') + 1));
}

// Those that are not decoded here are counted too, so that they are refused and not left out.
bool is_picture(std::string_view extension) {
  static const std::set<std::string_view> kinds = {"jpg", "jpeg", "png", "webp",
                                                   "gif", "bmp",  "tif", "tiff"};
  return is_one_of(kinds, extension);
}

// Left out, a sample would be another one: a row's "video" and "audio" are refused too.
bool is_film_or_sound(std::string_view extension) {
  static const std::set<std::string_view> kinds = {"mp4",  "mov", "avi", "mkv",  "webm", "mpg",
                                                   "mpeg", "wav", "mp3", "flac", "ogg",  "m4a"};
  return is_one_of(kinds, extension);
}

// The members with one key: a range of those of its archive.
struct Group {
  const TarFile* tar = nullptr;
  size_t first = 0, count = 0;
};

std::vector<Group> groups_of(const TarFile& tar) {
  std::vector<Group> groups;
  std::set<std::string_view> keys;
  std::string_view current;
  std::set<std::string> extensions;
  const std::vector<TarMember>& members = tar.members();
  for (size_t i = 0; i < members.size(); ++i) {
    const Name name = split_name(members[i].name);
    if (name.key.empty()) continue;
    if (groups.empty() || name.key != current) {
      if (!keys.insert(name.key).second) {
        user_error(
            "{}: {} comes apart from the others of sample {}; write the archive with --sort=name",
            tar.path().string(), members[i].name, name.key);
      }
      current = name.key;
      extensions.clear();
      groups.push_back({&tar, i, 0});
    }
    if (!extensions.insert(name.extension).second) {
      user_error("{}: sample {} has two members with the extension {}", tar.path().string(),
                 name.key, name.extension);
    }
    groups.back().count = i + 1 - groups.back().first;
  }
  return groups;
}

/// One sample read: its members by extension, its pictures in that order.
class SampleReader {
 public:
  explicit SampleReader(const Group& group) : tar_(*group.tar) {
    for (size_t i = group.first; i < group.first + group.count; ++i) {
      const TarMember& member = tar_.members()[i];
      const Name name = split_name(member.name);
      if (!name.key.empty()) members_.emplace(name.extension, &member);
      if (!name.key.empty()) key_ = name.key;
    }
    name_ = fmt::format("{}: sample {}", tar_.path().string(), key_);
    for (const auto& [extension, member] : members_) {
      if (!is_film_or_sound(extension)) continue;
      user_error("{} has a .{}, and the model takes no videos and no sound; leave it out", name_,
                 extension);
    }
  }

  Conversation conversation() const {
    if (Json row = json_row(); !row.is_null()) return from_json(std::move(row));
    std::vector<Part> pictures;
    for (const auto& [extension, member] : members_) {
      if (is_picture(extension))
        pictures.push_back({.kind = Part::Kind::kImage, .image = loaded(*member)});
    }
    if (pictures.empty()) user_error("{} has a .txt and no picture", name_);
    return exchange(std::move(pictures), kDescribe, caption());
  }

  Json ground_truth() const {
    Json row = json_row();
    return row.is_null() ? Json(caption()) : own_ground_truth(std::move(row), name_);
  }

 private:
  // The .json where it holds a conversation, else null: img2dataset, too, writes what it knows of a
  // picture into one.
  Json json_row() const {
    const auto found = members_.find(kJson);
    if (found != members_.end()) {
      const std::string what = fmt::format("{}: {}", tar_.path().string(), found->second->name);
      Json row = parse_json_of_single_keys(tar_.read(*found->second), what);
      if (row.is_array()) row = Json{{"messages", std::move(row)}};
      if (is_own_row(row)) return row;
      if (!members_.contains(kText)) {
        user_error("{} holds neither messages nor a question and its answer, and there is no {}.{}",
                   what, key_, kText);
      }
    }
    if (!members_.contains(kText)) user_error("{} has neither .json nor .txt", name_);
    return nullptr;
  }

  std::string caption() const {
    std::string text = tar_.read(*members_.find(kText)->second);
    require_utf8(text, name_ + ": its .txt");
    text.erase(text.find_last_not_of(" \t\r\n") + 1);
    return text;
  }

  ImageRef loaded(const TarMember& member) const {
    ImageRef image;
    image.source = fmt::format("{}: {}", tar_.path().string(), member.name);
    image.bytes = std::make_shared<const std::string>(tar_.read(member));
    return image;
  }

  // A member by its whole name, by the name of its file or by its extension.
  const TarMember* picture_named(std::string_view source) const {
    for (const auto& [extension, member] : members_) {
      const std::string_view name = member->name;
      if (is_picture(extension) &&
          (source == name || source == extension || source == name.substr(name.rfind('/') + 1))) {
        return member;
      }
    }
    return nullptr;
  }

  // Not on this disk: what an archive says opens no file beside it.
  static bool is_elsewhere(const std::string& source) { return !path_of_source(source); }

  void collect_names(const Json& json, std::set<const TarMember*>& named) const {
    if (json.is_string()) {
      if (const TarMember* member = picture_named(json.get_ref<const std::string&>())) {
        named.insert(member);
      }
    }
    if (!json.is_structured()) return;
    for (const auto& [key, value] : json.items()) {
      if (!json.is_object() || key != "text") collect_names(value, named);
    }
  }

  // The members that no part names are the row's own pictures.
  void add_pictures(Json& row) const {
    for (const char* key : {"image", "images"}) {
      if (find_said(row, key) != nullptr) return;
    }
    std::set<const TarMember*> named;
    for (const char* key : {"messages", "conversations"}) {
      if (!row.contains(key) || !row[key].is_array()) continue;
      for (const Json& message : row[key]) {
        if (message.is_object() && message.contains("content") && message["content"].is_array()) {
          collect_names(message["content"], named);
        }
      }
    }
    Json pictures = Json::array();
    for (const auto& [extension, member] : members_) {
      if (is_picture(extension) && !named.contains(member)) pictures.push_back(member->name);
    }
    if (!pictures.empty()) row["images"] = std::move(pictures);
  }

  Conversation from_json(Json row) const {
    make_plain_row(row, name_);
    add_pictures(row);
    Conversation conversation = read_own_row(std::move(row), name_);
    for (Message& message : conversation.messages) {
      for (Part& part : message.parts) {
        if (part.kind != Part::Kind::kImage || is_elsewhere(part.image.source)) continue;
        const TarMember* member = picture_named(part.image.source);
        if (member == nullptr) {
          user_error("{} names the picture \"{}\", which is not among its members", name_,
                     part.image.source);
        }
        const ImageRef image = loaded(*member);
        part.image.source = image.source;
        part.image.bytes = image.bytes;
      }
    }
    return conversation;
  }

  const TarFile& tar_;
  std::string_view key_;
  std::map<std::string, const TarMember*, std::less<>> members_;
  std::string name_;
};

std::vector<fs::path> shards(const fs::path& path, const std::string& split) {
  const std::string text = path.string();
  if (is_there(path) || text.find('{') == std::string::npos) {
    return files_of_split(path, split, ".tar");
  }
  const std::vector<std::string> names = expand_braces(text);
  return {names.begin(), names.end()};
}

class WebDataset : public Dataset {
 public:
  WebDataset(const fs::path& path, const std::string& split) {
    for (const fs::path& shard : shards(path, split)) {
      tars_.push_back(std::make_unique<TarFile>(shard));
      std::ranges::copy(groups_of(*tars_.back()), std::back_inserter(groups_));
    }
    if (groups_.empty()) {
      user_error("{} holds no sample, as 0001.jpg and 0001.json or 0001.txt", path.string());
    }
  }

  int64_t size() const override { return static_cast<int64_t>(groups_.size()); }
  std::vector<fs::path> files() const override {
    std::vector<fs::path> files;
    for (const auto& tar : tars_) files.push_back(tar->path());
    return files;
  }

  Conversation row(int64_t index) const override { return at(index).conversation(); }
  Json ground_truth(int64_t index) const override { return at(index).ground_truth(); }

 private:
  SampleReader at(int64_t index) const {
    return SampleReader(groups_.at(static_cast<size_t>(index)));
  }

  std::vector<std::unique_ptr<TarFile>> tars_;
  std::vector<Group> groups_;
};

}  // namespace

std::unique_ptr<Dataset> make_webdataset(const fs::path& path, const std::string& split) {
  return std::make_unique<WebDataset>(path, split);
}

}  // namespace trestle
