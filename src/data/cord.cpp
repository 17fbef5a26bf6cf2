#include "data/cord.h"

#include <algorithm>
#include <functional>

#include "base/text.h"

namespace trestle {

namespace {

constexpr int kMaxDepth = 20;

Json parse(std::string_view text, int depth);

// The elements `<s_key>...</s_key>` of one item. Text without any is a leaf.
Json parse_item(std::string_view text, int depth) {
  Json object = Json::object();
  std::string_view rest = text;
  for (size_t open; (open = rest.find("<s_")) != std::string_view::npos;) {
    const size_t name_end = rest.find('>', open);
    if (name_end == std::string_view::npos) break;
    const std::string key(rest.substr(open + 3, name_end - open - 3));
    const std::string closing = "</s_" + key + ">";
    const size_t close = rest.find(closing, name_end);
    if (close == std::string_view::npos) {
      rest.remove_prefix(name_end + 1);
      continue;
    }
    if (depth < kMaxDepth) {
      object[key] = parse(rest.substr(name_end + 1, close - name_end - 1), depth + 1);
    }
    rest.remove_prefix(close + closing.size());
  }
  if (object.empty()) return std::string(trimmed(text));
  return object;
}

// Items between the separators of this level: one inside an element belongs to that element.
Json parse(std::string_view text, int depth) {
  constexpr std::string_view kSeparator = "<sep/>";
  Json items = Json::array();
  size_t start = 0;
  int level = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i).starts_with("<s_")) {
      ++level;
    } else if (text.substr(i).starts_with("</s_")) {
      --level;
    } else if (level == 0 && text.substr(i).starts_with(kSeparator)) {
      items.push_back(parse_item(text.substr(start, i - start), depth));
      start = i + kSeparator.size();
      i = start - 1;
    }
  }
  Json last = parse_item(text.substr(start), depth);
  if (items.empty()) return last;
  items.push_back(last);
  return items;
}

void flatten(const Json& value, const std::string& path,
             std::vector<std::pair<std::string, std::string>>& out) {
  if (value.is_object()) {
    for (const auto& [key, child] : value.items()) {
      flatten(child, path.empty() ? key : path + "." + key, out);
    }
  } else if (value.is_array()) {
    // The tags of a list of one are those of its item.
    for (size_t i = 0; i < value.size(); ++i) {
      flatten(value[i], value.size() == 1 ? path : path + "." + std::to_string(i), out);
    }
  } else {
    out.emplace_back(path, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

}  // namespace

std::string json_to_tags(const Json& value) {
  std::string text;
  if (value.is_object()) {
    std::vector<std::string> keys;
    for (const auto& [key, child] : value.items()) keys.push_back(key);
    std::sort(keys.begin(), keys.end(), std::greater<>());
    for (const std::string& key : keys) {
      text += "<s_" + key + ">" + json_to_tags(value[key]) + "</s_" + key + ">";
    }
    return text;
  }
  if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i)
      text += (i > 0 ? "<sep/>" : "") + json_to_tags(value[i]);
    return text;
  }
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Json tags_to_json(std::string_view text) { return parse(text, 0); }

std::vector<std::pair<std::string, std::string>> flat_fields(const Json& value) {
  std::vector<std::pair<std::string, std::string>> out;
  if (value.is_object()) flatten(value, "", out);
  return out;
}

}  // namespace trestle
