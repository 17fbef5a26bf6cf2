#include "base/fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/number.h"
#include "base/suggestion.h"
#include "base/text.h"

namespace trestle {

namespace {

constexpr size_t kMaxYamlBytes = 1 << 20;
constexpr int kMaxYamlDepth = 20;
constexpr size_t kMaxYamlValues = 1 << 14;

std::string_view unquoted(std::string_view text) {
  text = trimmed(text);
  if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
      text.front() == text.back()) {
    return text.substr(1, text.size() - 2);
  }
  return text;
}

// Short where it can be, exact where it must be.
std::string bound_text(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 1e18;
  return whole ? fmt::format("{}", static_cast<int64_t>(value)) : fmt::format("{:g}", value);
}

// "'fast' is not a number; must be above 0 and at most 1".
template <class Number>
void parse_number(std::string_view key, std::string_view text, Number& value,
                  std::string_view allowed) {
  text = trimmed(text);
  const std::string problem = number_problem(text, value);
  if (!problem.empty()) user_error("{}={}: {}; {}", key, text, problem, allowed);
}

}  // namespace

std::string_view on_resume_text(OnResume on_resume) {
  switch (on_resume) {
    case OnResume::kSame:
      return "must be the same";
    case OnResume::kSameContent:
      return "same content";
    case OnResume::kFree:
      return "may change";
    case OnResume::kDerived:
      return "settled anew";
  }
  return {};
}

std::string Range::text() const {
  const std::string from =
      fmt::format("must be {} {}", above_low ? "above" : "at least", bound_text(low));
  const std::string to =
      std::isinf(high)
          ? ""
          : fmt::format(" and {} {}", below_high ? "below" : "at most", bound_text(high));
  return from + to + (or_zero ? ", or 0 for none" : "");
}

bool OneOf::holds(std::string_view value) const {
  // The array's unused places point nowhere, the word "" does not.
  return std::ranges::any_of(
      words, [&](std::string_view word) { return word.data() != nullptr && word == value; });
}

std::string OneOf::text() const {
  return fmt::format("must be one of {}", fmt::join(known(), ", "));
}

std::string OneOf::text_of(std::string_view value) const {
  return text() + or_meant(value, known());
}

std::vector<std::string> OneOf::known() const {
  std::vector<std::string> known;
  for (const std::string_view word : words) {
    if (!word.empty()) known.emplace_back(word);
  }
  return known;
}

void parse_value(std::string_view key, std::string_view text, bool& value) {
  text = unquoted(text);
  if (text == "true" || text == "True" || text == "1" || text == "on") {
    value = true;
  } else if (text == "false" || text == "False" || text == "0" || text == "off") {
    value = false;
  } else {
    user_error("{}={}: '{}' is not true or false", key, text, text);
  }
}

void parse_value(std::string_view key, std::string_view text, int64_t& value,
                 std::string_view allowed) {
  parse_number(key, text, value, allowed);
}

void parse_value(std::string_view key, std::string_view text, double& value,
                 std::string_view allowed) {
  parse_number(key, text, value, allowed);
}

void parse_value(std::string_view, std::string_view text, std::optional<std::string>& value) {
  value = unquoted(text);
}

void parse_value(std::string_view, std::string_view text, std::string& value) {
  value = unquoted(text);
}

void parse_value(std::string_view, std::string_view text, std::vector<std::string>& value) {
  text = trimmed(text);
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
    text = text.substr(1, text.size() - 2);
  }
  value.clear();
  while (!trimmed(text).empty()) {
    const size_t comma = text.find(',');
    value.emplace_back(unquoted(text.substr(0, comma)));
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
}

std::string format_value(bool value) { return value ? "true" : "false"; }
std::string format_value(int64_t value) { return std::to_string(value); }
std::string format_value(double value) { return fmt::format("{}", value); }
std::string format_value(const std::string& value) { return value; }
std::string format_value(const std::vector<std::string>& value) {
  return fmt::format("[{}]", fmt::join(value, ", "));
}

void unknown_key(std::string_view key, const std::vector<FieldText>& known) {
  std::vector<std::string> names;
  for (const FieldText& each : known) {
    names.push_back(each.path);
    // A group is no key, but what an empty one in a file may have been meant for.
    const std::string group = each.path.substr(0, each.path.find('.'));
    if (group != key && std::ranges::find(names, group) == names.end()) names.push_back(group);
  }
  user_error("unknown option {}; {}", key,
             did_you_mean(key, names, "trestle recipes --keys lists those that there are"));
}

void emit_text(YAML::Emitter& out, const std::string& text) {
  if (text == "null" || text == "~") out << YAML::DoubleQuoted;  // the word, and not nothing
  out << text;
}

YAML::Node load_yaml(const std::string& text, std::string_view what) {
  if (text.size() > kMaxYamlBytes) {
    user_error("{} has {} bytes; a config has at most {}", what, text.size(), kMaxYamlBytes);
  }
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) {
      user_error("{} has {} documents, and one is read; keep one", what, documents.size());
    }
    return documents.empty() ? YAML::Node() : documents.front();
  } catch (const YAML::Exception& error) {
    user_error("{}: not valid YAML: {}", what, error.what());
  }
}

namespace {

struct Flattened {
  std::vector<Assignment> out;
  std::set<std::string> paths;
  size_t visited = 0;  // aliases make a short text a huge tree
};

// A list or map of plain values, or null.
std::string flow_text(const YAML::Node& node, const std::string& path, std::string_view what) {
  YAML::Emitter out;
  const auto add = [&](const YAML::Node& value) {
    if (!value.IsNull() && !(value.IsScalar() && is_usual_yaml_tag(value.Tag()))) {
      user_error("{}: {} is not a list of plain values", what, path);
    }
    if (value.IsNull()) {
      out << YAML::Null;
    } else {
      emit_text(out, value.Scalar());
    }
  };
  if (node.IsMap()) {
    out << YAML::Flow << YAML::BeginMap;
    for (const auto& entry : node) {
      out << YAML::Key;
      add(entry.first);
      out << YAML::Value;
      add(entry.second);
    }
    out << YAML::EndMap;
  } else if (node.IsSequence()) {
    out << YAML::Flow << YAML::BeginSeq;
    for (const auto& each : node) add(each);
    out << YAML::EndSeq;
  } else {
    add(node);
  }
  return out.c_str();
}

// Plain items as they stand; lists and maps of plain values, as a blend of data sets has them, in
// YAML's flow style.
std::string text_of_list(const YAML::Node& list, const std::string& path, std::string_view what,
                         Flattened& into) {
  std::vector<std::string> items;
  for (const auto& item : list) {
    if (item.IsScalar()) {
      items.push_back(item.Scalar());
      continue;
    }
    into.visited += item.size();
    if (into.visited > kMaxYamlValues) user_error("{}: over {} values", what, kMaxYamlValues);
    items.push_back(flow_text(item, path, what));
  }
  return fmt::format("[{}]", fmt::join(items, ", "));
}

void flatten_into(const YAML::Node& node, const std::string& prefix, std::string_view what,
                  int depth, Flattened& into) {
  if (depth > kMaxYamlDepth) user_error("{}: nested deeper than {} levels", what, kMaxYamlDepth);
  if (!is_usual_yaml_tag(node.Tag())) {
    user_error("{}: {} has the tag {}, which means nothing here; leave it out", what, prefix,
               node.Tag());
  }
  into.visited += 1 + (node.IsSequence() ? node.size() : 0);
  if (into.visited > kMaxYamlValues) user_error("{}: over {} values", what, kMaxYamlValues);
  if (node.IsMap() && (node.size() > 0 || prefix.empty())) {
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        user_error("{}: a key of '{}' is a list or map", what, prefix);
      }
      const std::string& key = entry.first.Scalar();
      flatten_into(entry.second, prefix.empty() ? key : prefix + "." + key, what, depth + 1, into);
    }
    return;
  }
  if (!into.paths.insert(prefix).second) {
    user_error("{}: {} is there twice; keep one", what, prefix);
  }
  if (node.IsNull() || node.IsMap()) {
    into.out.push_back({prefix, std::nullopt});
  } else if (node.IsSequence()) {
    into.out.push_back({prefix, text_of_list(node, prefix, what, into)});
  } else {
    into.out.push_back({prefix, node.Scalar()});
  }
}

}  // namespace

Assignment parse_override(std::string_view assignment) {
  if (assignment.starts_with('~')) {
    user_error("{} removes a key in Hydra's words; KEY=null gives it the recipe's value",
               assignment);
  }
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    user_error("override '{}' has no '='; write key.sub=value", assignment);
  }
  const std::string_view value = assignment.substr(equals + 1);
  // As YAML spells it.
  constexpr std::array<std::string_view, 4> kNull = {"null", "Null", "NULL", "~"};
  const bool is_null = std::ranges::find(kNull, trimmed(value)) != kNull.end();
  return {std::string(assignment.substr(0, equals)),
          is_null ? std::nullopt : std::optional<std::string>(value)};
}

std::vector<Assignment> flatten_yaml(const YAML::Node& node, std::string_view what) {
  if (node.IsNull()) return {};
  if (!node.IsMap()) user_error("{}: a config is a mapping of keys to values", what);
  Flattened flattened;
  flatten_into(node, "", what, 0, flattened);
  // `a.b: 1` beside an empty `a:`, which would take it back or not as they stand.
  for (const std::string& path : flattened.paths) {
    for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
      if (!flattened.paths.contains(path.substr(0, dot))) continue;
      user_error("{}: {} and {} are both there; keep one", what, path.substr(0, dot), path);
    }
  }
  return flattened.out;
}

std::string yaml_of(const std::vector<FieldText>& fields) {
  // Fields come depth first, so a group is opened once, where the path leaves the one before.
  std::string out;
  std::vector<std::string> open;
  for (const FieldText& each : fields) {
    std::vector<std::string> parts;
    size_t start = 0;
    for (size_t dot; (dot = each.path.find('.', start)) != std::string::npos; start = dot + 1) {
      parts.push_back(each.path.substr(start, dot - start));
    }
    const auto shared = static_cast<size_t>(
        std::mismatch(parts.begin(), parts.end(), open.begin(), open.end()).first - parts.begin());
    for (size_t level = shared; level < parts.size(); ++level) {
      out += fmt::format("{:{}}{}:\n", "", 2 * level, parts[level]);
    }
    open = parts;
    const std::string name = each.path.substr(start);
    if (each.kind == FieldText::Kind::kFlow) {
      out += fmt::format("{:{}}{}: {}\n", "", 2 * parts.size(), name, each.value);
      continue;
    }
    YAML::Emitter value;
    if (each.kind == FieldText::Kind::kList) {
      std::vector<std::string> items;
      parse_value(each.path, each.value, items);
      // Each as text, which is quoted where YAML would read something else: `*` is an alias.
      value << YAML::Flow << items;
    } else if (each.kind == FieldText::Kind::kNull) {
      value << YAML::Null;
    } else {
      emit_text(value, each.value);
    }
    out += fmt::format("{:{}}{}: {}\n", "", 2 * parts.size(), name, value.c_str());
  }
  return out;
}

}  // namespace trestle
