#include "data/hub_layout.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <ranges>

#include "base/error.h"
#include "base/text.h"
#include "data/glob.h"
#include "data/splits.h"
#include "formats/yaml.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kReadme = "its README.md";
constexpr const char* kOnly = "default";  // of a repository that names no subset
// Of characters of patterns times those of names: more than any real README comes to.
constexpr uint64_t kMostMatching = 1ull << 32;

// Between two lines of `---`; empty where the first line is none.
std::string_view front_matter(std::string_view readme) {
  size_t begin = 0;
  for (size_t at = 0; at < readme.size();) {
    const size_t end = std::min(readme.find('\n', at), readme.size());
    const bool is_fence =
        readme.substr(at, end - at) == "---" || readme.substr(at, end - at) == "---\r";
    if (at == 0 && !is_fence) return {};
    if (at == 0) begin = end;
    if (at > 0 && is_fence) return readme.substr(begin, at - begin);
    at = end + 1;
  }
  return {};
}

// YAML makes a number of a name like 2024.
std::string text_of(const Json& value, std::string_view what) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_structured() || value.is_null()) {
    user_error("{}: {} is no text", kReadme, what);
  }
  return value.dump();
}

std::vector<std::string> texts_of(const Json& value, std::string_view what) {
  if (!value.is_array()) return {text_of(value, what)};
  std::vector<std::string> texts;
  for (const Json& each : value) texts.push_back(text_of(each, what));
  return texts;
}

std::vector<std::string> parts_of(const std::string& path) {
  std::vector<std::string> parts;
  for (const fs::path& part : fs::path(path)) parts.push_back(part.string());
  return parts;
}

// "./data/" -> "data"
std::string plain_folder(std::string folder) {
  while (folder.starts_with("./")) folder.erase(0, 2);
  while (folder.ends_with('/')) folder.pop_back();
  return folder == "." ? "" : folder;
}

// For a message.
std::string listed(const std::vector<std::string>& names) {
  constexpr size_t kMost = 30;
  return fmt::format("{}{}", fmt::join(names | std::views::take(kMost), ", "),
                     names.size() > kMost ? ", ..." : "");
}

bool is_special(std::string_view part) { return part.starts_with('.') || part.starts_with("__"); }

// As `datasets` leaves them out unless a pattern names such a part itself.
bool is_hidden(const std::string& name, const std::string& pattern) {
  const auto special = [](const std::string& path) {
    return std::ranges::count_if(parts_of(path), is_special);
  };
  return special(name) > special(pattern);
}

}  // namespace

bool HubSubset::has_parquet() const {
  return !files.empty() ||
         std::ranges::any_of(splits, [](const auto& each) { return !each.second.empty(); });
}

HubSubset::Files HubSubset::of_split(const std::string& split) const {
  Files chosen;
  for (const auto& [name, its] : splits) {
    if (split.empty() || name == split) chosen.insert(chosen.end(), its.begin(), its.end());
  }
  for (const fs::path& file : choose_split(files, split, folder)) {
    chosen.push_back((folder / file).generic_string());
  }
  return chosen;
}

std::string HubSubset::describe() const {
  if (splits.empty()) return describe_splits(files);
  Files names;
  for (const auto& [name, its] : splits) {
    if (!its.empty()) names.push_back(name);
  }
  return "it has those of " + listed(names);
}

HubLayout::HubLayout(const std::set<std::string>& names, std::string_view readme) {
  for (const std::string& name : names) {
    if (name.ends_with(".parquet")) parquet_.push_back(name);
  }
  read_configs(front_matter(readme));
}

HubLayout HubLayout::of_conversion(const std::set<std::string>& names) {
  HubLayout layout(names, {});
  layout.is_conversion_ = true;
  for (const std::string& name : layout.parquet_) {
    if (const auto parts = parts_of(name); parts.size() == 3) layout.configs_[parts.front()];
  }
  return layout;
}

void HubLayout::read_configs(std::string_view yaml) {
  if (trimmed(yaml).empty()) return;
  const Json metadata = parse_yaml(yaml, kReadme);
  const auto configs = metadata.is_object() ? metadata.find("configs") : metadata.end();
  if (!metadata.is_object() || configs == metadata.end() || configs->is_null()) return;
  if (!configs->is_array()) user_error("{}: configs is no list", kReadme);
  for (const Json& each : *configs) {
    if (!each.is_object()) user_error("{}: one of configs has no keys", kReadme);
    const auto value = [&](const char* key) { return each.value(key, Json()); };
    const std::string name =
        each.contains("config_name") ? text_of(each["config_name"], "config_name") : kOnly;
    Config config;
    config.is_default = value("default") == true;
    if (const Json folder = value("data_dir"); !folder.is_null()) {
      config.folder = plain_folder(text_of(folder, "data_dir of " + name));
    }
    const std::string what = "data_files of " + name;
    const Json files = value("data_files");
    const bool by_split = files.is_array() && !files.empty() && files.front().is_object();
    for (const Json& part : by_split ? files : Json::array()) {
      if (!part.is_object() || !part.contains("split") || !part.contains("path")) {
        user_error("{}: {}: each of them needs split and path", kReadme, what);
      }
      config.patterns.emplace_back(text_of(part["split"], what), texts_of(part["path"], what));
    }
    // Without a word about splits all of them are of training.
    if (!by_split && !files.is_null()) config.patterns.emplace_back("train", texts_of(files, what));
    configs_[name] = std::move(config);
  }
}

std::string HubLayout::settle_name(const std::string& name) const {
  std::vector<std::string> names;
  for (const auto& [each, config] : configs_) names.push_back(each);
  if (name.empty()) {
    if (names.size() == 1) return names.front();
    for (const auto& [each, config] : configs_) {
      if (config.is_default) return each;
    }
    if (configs_.empty() || configs_.contains(kOnly)) return kOnly;
    user_error("it has the subsets {}; name one of them (dataset.subset, --subset)", listed(names));
  }
  if (configs_.contains(name) || (configs_.empty() && name == kOnly)) return name;
  if (configs_.empty()) user_error("it has no subsets; leave {} out", name);
  user_error("it has no subset {}; it has {}", name, listed(names));
}

HubSubset HubLayout::subset(const std::string& asked) const {
  const std::string name = settle_name(asked);
  HubSubset subset;
  const auto add = [&](const std::string& split) -> HubSubset::Files& {
    const auto found =
        std::ranges::find(subset.splits, split, [](auto& each) { return each.first; });
    return found == subset.splits.end()
               ? subset.splits.emplace_back(split, HubSubset::Files()).second
               : found->second;
  };
  if (is_conversion_) {
    for (const std::string& file : parquet_) {
      const auto parts = parts_of(file);
      if (parts.size() == 3 && parts.front() == name) add(parts[1]).push_back(file);
    }
    return subset;
  }
  const auto found = configs_.find(name);
  const Config config = found == configs_.end() ? Config() : found->second;
  require_little_matching(config);
  for (const auto& [split, patterns] : config.patterns) {
    HubSubset::Files& files = add(split);
    std::ranges::copy(matching(patterns, config.folder), std::back_inserter(files));
  }
  if (!config.patterns.empty()) return subset;
  subset.folder = config.folder;
  const std::string below = config.folder.empty() ? "" : config.folder + "/";
  for (const std::string& file : parquet_) {
    if (!file.starts_with(below)) continue;
    const std::string inner = file.substr(below.size());
    if (!is_hidden(inner, "")) subset.files.emplace_back(inner);
  }
  return subset;
}

void HubLayout::require_little_matching(const Config& config) const {
  uint64_t of_names = 0, of_patterns = 1;
  for (const std::string& name : parquet_) of_names += name.size() + 1;
  for (const auto& [split, patterns] : config.patterns) {
    for (const std::string& each : patterns) of_patterns += config.folder.size() + each.size() + 1;
  }
  if (of_names > kMostMatching / of_patterns) {
    user_error("{}: the patterns of data_files are too many for {} files", kReadme,
               parquet_.size());
  }
}

// In the order of the patterns, those of one in that of their names, each file once.
HubSubset::Files HubLayout::matching(const std::vector<std::string>& patterns,
                                     const std::string& folder) const {
  HubSubset::Files files;
  std::set<std::string> taken;
  for (const std::string& each : patterns) {
    const std::string pattern =
        folder.empty() ? plain_folder(each) : folder + "/" + plain_folder(each);
    for (const std::string& name : parquet_) {
      if (matches_glob(pattern, name) && !is_hidden(name, pattern) && taken.insert(name).second) {
        files.push_back(name);
      }
    }
  }
  return files;
}

}  // namespace trestle
