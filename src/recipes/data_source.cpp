#include "recipes/data_source.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/number.h"
#include "base/text.h"

namespace trestle {

namespace {

constexpr size_t kMostSources = 256;
constexpr Range kWeights = above(0, 1e9);
constexpr std::string_view kForm = "write [{path: PATH, weight: 0.7}, {path: PATH, weight: 0.3}]";

const std::string& scalar(std::string_view key, const YAML::Node& node) {
  if (!node.IsScalar() || !is_usual_yaml_tag(node.Tag())) {
    user_error("{}: holds a list or map where a text is expected; {}", key, kForm);
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
std::map<std::string, std::string> entries(std::string_view key, const YAML::Node& node,
                                           const std::vector<std::string>& known) {
  std::map<std::string, std::string> out;
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
    if (std::ranges::find(known, name) == known.end()) {
      user_error("{}: unknown entry {}; did you mean {}?", key, name, nearest(name, known));
    }
    if (!out.emplace(name, value).second) user_error("{}: {} stands twice in one entry", key, name);
  }
  return out;
}

DataSource data_of(std::string_view key, const std::map<std::string, std::string>& entries) {
  const auto text = [&](const char* name) -> std::optional<std::string> {
    const auto found = entries.find(name);
    return found == entries.end() ? std::nullopt : std::optional(found->second);
  };
  DataSource data{.path = text("path").value_or(""),
                  .maker_name = text("maker_name"),
                  .split = text("split"),
                  .subset = text("subset").value_or("")};
  if (data.path.empty()) user_error("{}: an entry has no path; {}", key, kForm);
  return data;
}

BlendSource source_of(std::string_view key, const YAML::Node& node) {
  const auto found = entries(key, node, {"path", "weight", "maker_name", "split", "subset"});
  BlendSource source{data_of(key, found), {}};
  const auto weight = found.find("weight");
  if (weight != found.end()) source.weight = weight_of(key, weight->second);
  return source;
}

bool is_number(const std::string& text) {
  double value = 0;
  return number_problem(text, value).empty();
}

// Megatron's --data-path: weights and paths in turns, or paths alone.
std::vector<BlendSource> of_flat_list(std::string_view key, const YAML::Node& list) {
  std::vector<std::string> texts;
  for (const auto& item : list) texts.push_back(scalar(key, item));
  bool in_turns = texts.size() % 2 == 0;
  for (size_t i = 0; i < texts.size(); i += 2) in_turns = in_turns && is_number(texts[i]);
  std::vector<BlendSource> sources;
  for (size_t i = 0; i < texts.size(); i += in_turns ? 2 : 1) {
    BlendSource& source = sources.emplace_back();
    if (in_turns) source.weight = weight_of(key, texts[i]);
    source.data.path = texts[i + (in_turns ? 1 : 0)];
    if (source.data.path.empty()) user_error("{}: an entry has no path; {}", key, kForm);
    if (!in_turns && is_number(source.data.path)) {
      user_error("{}: {} stands where a path is expected; {}", key, source.data.path, kForm);
    }
  }
  return sources;
}

// Megatron's config: the paths, and the weights or null.
std::vector<BlendSource> of_two_lists(std::string_view key, const YAML::Node& paths,
                                      const YAML::Node& weights) {
  const size_t count = weights.IsSequence() ? weights.size() : 0;
  if (!paths.IsSequence() || (!weights.IsNull() && count != paths.size())) {
    user_error("{}: {} paths and {} weights; give each path one", key, paths.size(), count);
  }
  std::vector<BlendSource> sources;
  for (size_t i = 0; i < paths.size(); ++i) {
    BlendSource& source = sources.emplace_back();
    source.data.path = scalar(key, paths[i]);
    if (count > 0) source.weight = weight_of(key, scalar(key, weights[i]));
  }
  return sources;
}

bool all_are(const YAML::Node& list, bool (YAML::Node::*is)() const) {
  return std::all_of(list.begin(), list.end(),
                     [&](const YAML::Node& item) { return (item.*is)(); });
}

// Null for nothing.
YAML::Node list_of(std::string_view key, std::string_view text) {
  YAML::Node list = load_yaml(std::string(text), key);
  if (list.IsNull()) return list;
  if (!list.IsSequence()) user_error("{}={}: is no list; {}", key, trimmed(text), kForm);
  if (list.size() > kMostSources) {
    user_error("{}: {} entries; at most {} are taken", key, list.size(), kMostSources);
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

void parse_value(std::string_view key, std::string_view text, std::vector<BlendSource>& value) {
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
    user_error("{}: its entries are of several kinds; {}", key, kForm);
  }
  const auto has_weight = [](const BlendSource& each) { return each.weight.has_value(); };
  const auto weights = std::ranges::count_if(value, has_weight);
  if (weights != 0 && weights != std::ssize(value)) {
    user_error("{}: {} has no weight and others have one; give it one", key,
               std::ranges::find_if_not(value, has_weight)->data.path);
  }
}

void parse_value(std::string_view key, std::string_view text, std::vector<ValidationSet>& value) {
  constexpr std::string_view kSets = "write [{name: NAME, path: PATH}, {name: NAME, path: PATH}]";
  value.clear();
  for (const auto& item : list_of(key, text)) {
    if (!item.IsMap()) user_error("{}: {} is no entry; {}", key, scalar(key, item), kSets);
    const auto found = entries(key, item, {"name", "path", "maker_name", "split", "subset"});
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
                 key, name, data.path);
    }
    if (std::ranges::find(value, name, &ValidationSet::name) != value.end()) {
      user_error("{}: two sets are named {}; rename one", key, name);
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
