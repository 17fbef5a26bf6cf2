#include "recipes/data_source.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/number.h"
#include "base/suggestion.h"
#include "base/text.h"
#include "data/datasets.h"

namespace trestle {

namespace {

constexpr size_t kMostSources = 256;
constexpr Range kWeights = above(0, 1e9);

// What is written under a key, and which entries a source of it has.
struct Key {
  std::string_view name, form;
  std::vector<std::string> entries;
};

Key blend_key(std::string_view name) {
  return {name,
          "write [{path: PATH, weight: 0.7}, {path: PATH, weight: 0.3}]",
          {"path", "weight", "maker_name", "split", "subset"}};
}

Key sets_key(std::string_view name) {
  return {name,
          "write [{name: NAME, path: PATH}, {name: NAME, path: PATH}]",
          {"name", "path", "maker_name", "split", "subset"}};
}

using Entries = std::map<std::string, std::string>;

// As it was written, for messages.
std::string text_of(const Entries& entries) {
  std::vector<std::string> texts;
  for (const auto& [name, value] : entries) texts.push_back(fmt::format("{}: {}", name, value));
  return fmt::format("{{{}}}", fmt::join(texts, ", "));
}

const std::string& scalar(const Key& key, const YAML::Node& node) {
  if (!node.IsScalar() || !is_usual_yaml_tag(node.Tag())) {
    user_error("{}: holds a list or map where a text is expected; {}", key.name, key.form);
  }
  return node.Scalar();
}

double weight_of(std::string_view key, std::string_view text) {
  double weight = 0;
  const std::string name = fmt::format("{}: weight", key);
  parse_value(name, text, weight, kWeights.text());
  check_value(name, kWeights, weight);
  return weight;
}

// The entries of one `{path: a, weight: 0.7}`; Hydra's `{path:a}` too, which is a key to YAML.
Entries entries_of(const Key& key, const YAML::Node& node) {
  Entries out;
  for (const auto& entry : node) {
    std::string name = scalar(key, entry.first), value;
    const size_t colon = name.find(':');
    if (!entry.second.IsNull()) {
      value = scalar(key, entry.second);
    } else if (colon != std::string::npos) {
      value = name.substr(colon + 1);
      name.resize(colon);
    } else {
      continue;  // not said
    }
    if (std::ranges::find(key.entries, name) == key.entries.end()) {
      user_error("{}: unknown entry {}: {}; {}", key.name, name, value,
                 did_you_mean(name, key.entries,
                              fmt::format("there are {}", fmt::join(key.entries, ", "))));
    }
    const auto [before, is_new] = out.emplace(name, value);
    if (!is_new) {
      user_error("{}: {} stands twice in one entry, as {} and {}; keep one", key.name, name,
                 before->second, value);
    }
  }
  return out;
}

DataSource data_of(const Key& key, const Entries& entries) {
  const auto text = [&](const char* name) -> std::optional<std::string> {
    const auto found = entries.find(name);
    return found == entries.end() ? std::nullopt : std::optional(found->second);
  };
  DataSource data{.path = text("path").value_or(""),
                  .maker_name = text("maker_name"),
                  .split = text("split"),
                  .subset = text("subset").value_or("")};
  if (data.path.empty()) user_error("{}: {} has no path; {}", key.name, text_of(entries), key.form);
  const std::vector<std::string> makers = dataset_makers();
  if (data.maker_name && std::ranges::find(makers, *data.maker_name) == makers.end()) {
    user_error("{}: maker_name: {} of {} is not known; {}", key.name, *data.maker_name, data.path,
               suggest_maker(*data.maker_name));
  }
  return data;
}

BlendSource source_of(const Key& key, const YAML::Node& node) {
  const Entries found = entries_of(key, node);
  BlendSource source{data_of(key, found), {}};
  const auto weight = found.find("weight");
  if (weight != found.end()) source.weight = weight_of(key.name, weight->second);
  return source;
}

bool is_number(const std::string& text) {
  double value = 0;
  return number_problem(text, value).empty();
}

// Megatron's --data-path: weights and paths in turns, or paths alone.
std::vector<BlendSource> of_flat_list(const Key& key, const YAML::Node& list) {
  std::vector<std::string> texts;
  for (const auto& item : list) texts.push_back(scalar(key, item));
  bool in_turns = texts.size() % 2 == 0;
  for (size_t i = 0; i < texts.size(); i += 2) in_turns = in_turns && is_number(texts[i]);
  std::vector<BlendSource> sources;
  for (size_t i = 0; i < texts.size(); i += in_turns ? 2 : 1) {
    BlendSource& source = sources.emplace_back();
    if (in_turns) source.weight = weight_of(key.name, texts[i]);
    source.data.path = texts[i + (in_turns ? 1 : 0)];
    if (source.data.path.empty()) {
      user_error("{}: path {} of [{}] is empty; {}", key.name, std::ssize(sources),
                 fmt::join(texts, ", "), key.form);
    }
    if (!in_turns && is_number(source.data.path)) {
      user_error("{}: {} stands where a path is expected; {}", key.name, source.data.path,
                 key.form);
    }
  }
  return sources;
}

// Megatron's config: the paths, and the weights or null.
std::vector<BlendSource> of_two_lists(const Key& key, const YAML::Node& paths,
                                      const YAML::Node& weights) {
  const size_t count = weights.IsSequence() ? weights.size() : 0;
  if (!paths.IsSequence() || (!weights.IsNull() && count != paths.size())) {
    user_error("{}: {} paths and {} weights; give each path one", key.name, paths.size(), count);
  }
  std::vector<BlendSource> sources;
  for (size_t i = 0; i < paths.size(); ++i) {
    BlendSource& source = sources.emplace_back();
    source.data.path = scalar(key, paths[i]);
    if (source.data.path.empty()) {
      user_error("{}: path {} of {} is empty; {}", key.name, i + 1, paths.size(), key.form);
    }
    if (count > 0) source.weight = weight_of(key.name, scalar(key, weights[i]));
  }
  return sources;
}

bool all_are(const YAML::Node& list, bool (YAML::Node::*is)() const) {
  return std::all_of(list.begin(), list.end(),
                     [&](const YAML::Node& item) { return (item.*is)(); });
}

// Null for nothing.
YAML::Node list_of(const Key& key, std::string_view text) {
  YAML::Node list = load_yaml(std::string(text), key.name);
  if (list.IsNull()) return list;
  if (!list.IsSequence()) user_error("{}={}: is no list; {}", key.name, trimmed(text), key.form);
  if (list.size() > kMostSources) {
    user_error("{}: {} entries; at most {} are taken", key.name, list.size(), kMostSources);
  }
  return list;
}

void add(YAML::Emitter& out, const char* key, const std::optional<std::string>& value) {
  if (!value) return;
  out << YAML::Key << key << YAML::Value;
  emit_text(out, *value);
}

void add(YAML::Emitter& out, const DataSource& data) {
  add(out, "maker_name", data.maker_name);
  add(out, "split", data.split);
  add(out, "subset", data.subset.empty() ? std::nullopt : std::optional(data.subset));
}

template <class Source, class Function>
std::string flow_list(const std::vector<Source>& sources, const Function& add_entries) {
  YAML::Emitter out;
  out << YAML::Flow << YAML::BeginSeq;
  for (const Source& source : sources) {
    out << YAML::Flow << YAML::BeginMap;
    add_entries(out, source);
    out << YAML::EndMap;
  }
  out << YAML::EndSeq;
  return out.c_str();
}

}  // namespace

void parse_value(std::string_view name, std::string_view text, std::vector<BlendSource>& value) {
  const Key key = blend_key(name);
  value.clear();
  const YAML::Node list = list_of(key, text);
  if (list.IsNull() || list.size() == 0) return;
  if (all_are(list, &YAML::Node::IsMap)) {
    for (const auto& item : list) value.push_back(source_of(key, item));
  } else if (list.size() == 2 && list[0].IsSequence()) {
    value = of_two_lists(key, list[0], list[1]);
  } else if (all_are(list, &YAML::Node::IsScalar)) {
    value = of_flat_list(key, list);
  } else {
    user_error("{}={}: its entries are of several kinds; {}", name, trimmed(text), key.form);
  }
  const auto has_weight = [](const BlendSource& each) { return each.weight.has_value(); };
  const auto weights = std::ranges::count_if(value, has_weight);
  if (weights != 0 && weights != std::ssize(value)) {
    user_error("{}: {} has no weight and others have one; give it one", name,
               std::ranges::find_if_not(value, has_weight)->data.path);
  }
}

void parse_value(std::string_view key_name, std::string_view text,
                 std::vector<ValidationSet>& value) {
  const Key key = sets_key(key_name);
  value.clear();
  for (const auto& item : list_of(key, text)) {
    if (!item.IsMap()) user_error("{}: {} is no entry; {}", key.name, scalar(key, item), key.form);
    const Entries found = entries_of(key, item);
    const DataSource data = data_of(key, found);
    const auto at = found.find("name");
    const std::string name = at == found.end() ? "" : at->second;
    // It is part of the names of metrics.
    const auto is_usual = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '_' || c == '.' || c == '-';
    };
    if (name.empty() || !std::ranges::all_of(name, is_usual)) {
      user_error("{}: '{}' is no name for the set {}; letters, digits, '_', '.' and '-' make one",
                 key.name, name, data.path);
    }
    const auto other = std::ranges::find(value, name, &ValidationSet::name);
    if (other != value.end()) {
      user_error("{}: two sets are named {}, {} and {}; rename one", key.name, name,
                 other->data.path, data.path);
    }
    value.push_back({name, data});
  }
}

std::string format_value(const std::vector<BlendSource>& value) {
  return flow_list(value, [](YAML::Emitter& out, const BlendSource& source) {
    add(out, "path", source.data.path);
    if (source.weight) {
      out << YAML::Key << "weight" << YAML::Value << format_value(*source.weight);
    }
    add(out, source.data);
  });
}

std::string format_value(const std::vector<ValidationSet>& value) {
  return flow_list(value, [](YAML::Emitter& out, const ValidationSet& set) {
    add(out, "name", set.name);
    add(out, "path", set.data.path);
    add(out, set.data);
  });
}

}  // namespace trestle
