#include "generate/scores.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "generate/tree_edit.h"
#include "tokenizer/utf8.h"

namespace trestle {

namespace {

constexpr size_t kMostNodes = 2'000, kMostBytes = 100'000;
constexpr const char* kSubtree = "<subtree>";

// What Python's str.isspace says, which str.strip and str.split go by.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

std::u32string stripped(const std::u32string& text) {
  const auto first = std::ranges::find_if_not(text, is_space);
  const auto last = std::find_if_not(text.rbegin(), std::make_reverse_iterator(first), is_space);
  return {first, last.base()};
}

// Lower case for ASCII, Latin-1, Greek and Cyrillic, where letters lie in blocks.
char32_t lowered(char32_t c) {
  const auto within = [c](char32_t first, char32_t last) { return c >= first && c <= last; };
  if (within('A', 'Z') || within(0xc0, 0xd6) || within(0xd8, 0xde) || within(0x391, 0x3a1) ||
      within(0x3a3, 0x3ab) || within(0x410, 0x42f)) {
    return c + 32;
  }
  return within(0x400, 0x40f) ? c + 80 : c;
}

// Lower case, and one space wherever there is any.
std::u32string folded(std::string_view text) {
  std::u32string out;
  for (const char32_t c : stripped(code_points(text))) {
    if (!is_space(c)) {
      out += lowered(c);
    } else if (out.back() != U' ') {
      out += U' ';
    }
  }
  return out;
}

// What Python calls false.
bool is_nothing(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_number() && value.get<double>() == 0) ||
         (value.is_string() && value.get_ref<const std::string&>().empty()) ||
         (value.is_structured() && value.empty());
}

LabelledTree leaf(const Json& value) {
  const std::string text = value.is_string()    ? value.get<std::string>()
                           : value.is_boolean() ? "True"  // as Python writes it
                                                : value.dump();
  return {.label = stripped(code_points(text)), .is_leaf = true, .children = {}};
}

std::vector<LabelledTree> children_of(const Json& value);

// Donut sorts keys by their length and then by themselves.
std::vector<LabelledTree> entries_of(const Json& object) {
  std::vector<std::pair<std::u32string, const Json*>> entries;
  for (const auto& [key, child] : object.items()) entries.emplace_back(code_points(key), &child);
  std::ranges::sort(entries, {},
                    [](const auto& entry) { return std::pair(entry.first.size(), entry.first); });
  std::vector<LabelledTree> nodes;
  for (auto& [key, child] : entries) {
    std::vector<LabelledTree> children = children_of(*child);
    if (children.empty()) continue;
    if (child->is_object()) {
      std::vector<LabelledTree> one;
      one.push_back({code_points(kSubtree), false, std::move(children)});
      children = std::move(one);
    }
    nodes.push_back({std::move(key), false, std::move(children)});
  }
  return nodes;
}

std::vector<LabelledTree> items_of(const Json& list) {
  std::vector<LabelledTree> nodes;
  const bool objects = std::ranges::all_of(list, [](const Json& item) { return item.is_object(); });
  for (const Json& item : list) {
    if (objects) {
      std::vector<LabelledTree> children = entries_of(item);
      if (!children.empty()) nodes.push_back({code_points(kSubtree), false, std::move(children)});
    } else if (item.is_string() || item.is_number()) {
      LabelledTree node = leaf(item);
      if (!node.label.empty()) nodes.push_back(std::move(node));
    }
  }
  return nodes;
}

// A document as Donut's normalize_dict and construct_tree_from_dict make it: what is empty is gone,
// a value is a list of leaves, an object in a list is a <subtree>.
std::vector<LabelledTree> children_of(const Json& value) {
  if (is_nothing(value)) return {};
  if (value.is_object()) return entries_of(value);
  if (value.is_array()) return items_of(value);
  std::vector<LabelledTree> one;
  one.push_back(leaf(value));
  return one;
}

LabelledTree document(const Json& value) {
  // Text without any tag is one field: Donut's token2json names it so.
  if (!value.is_string()) return {code_points("<root>"), false, children_of(value)};
  Json whole = Json::object();
  whole["text_sequence"] = value;
  return {code_points("<root>"), false, children_of(whole)};
}

using Fields = std::map<std::pair<std::u32string, std::u32string>, int64_t>;

void flatten(const LabelledTree& node, const std::u32string& path, Fields& fields) {
  for (const LabelledTree& child : node.children) {
    if (child.is_leaf) {
      ++fields[{path, child.label}];
    } else if (child.label == code_points(kSubtree)) {
      flatten(child, path, fields);
    } else {
      flatten(child, path.empty() ? child.label : path + U'.' + child.label, fields);
    }
  }
}

bool is_choice_letter(char32_t c) { return c >= U'A' && c <= U'H'; }
bool is_word(char32_t c) {
  return (c >= U'0' && c <= U'9') || (c >= U'A' && c <= U'Z') || (c >= U'a' && c <= U'z') ||
         c == U'_' || c == U'\'' || c >= 0x80;
}

std::vector<std::u32string> words(std::string_view text) {
  std::vector<std::u32string> words;
  bool within = false;
  for (const char32_t c : code_points(text)) {
    if (is_word(c)) {
      if (!within) words.emplace_back();
      words.back() += c;
    }
    within = is_word(c);
  }
  return words;
}

}  // namespace

std::u32string code_points(std::string_view text) {
  const std::string valid = repair_utf8(text);
  std::u32string out;
  for (const char byte : valid) {
    const auto bits = static_cast<uint8_t>(byte);
    if ((bits & 0xC0) == 0x80) {
      out.back() = out.back() << 6 | (bits & 0x3F);
    } else {
      out += bits < 0x80 ? bits : bits < 0xE0 ? bits & 0x1F : bits < 0xF0 ? bits & 0x0F : bits & 7;
    }
  }
  return out;
}

int64_t edit_distance(const std::u32string& a, const std::u32string& b) {
  // One row of the table, that of the prefixes of b against a prefix of a.
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), int64_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i) + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const int64_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

int64_t edit_distance(std::string_view a, std::string_view b) {
  return edit_distance(code_points(a), code_points(b));
}

double anls(std::string_view answer, std::string_view wanted) {
  const std::u32string a = folded(answer), b = folded(wanted);
  const auto longer = static_cast<double>(std::max(a.size(), b.size()));
  if (longer == 0) return 1;
  const double distance = static_cast<double>(edit_distance(a, b)) / longer;
  return distance < 0.5 ? 1 - distance : 0;
}

FieldCounts count_fields(const Json& truth, const Json& answer) {
  Fields wanted, said;
  flatten(document(truth), U"", wanted);
  flatten(document(answer), U"", said);
  FieldCounts counts;
  for (const auto& [field, number] : wanted) {
    const auto found = said.find(field);
    const int64_t same = found == said.end() ? 0 : std::min(number, found->second);
    counts.same += same;
    counts.other += number - same;
    if (found != said.end()) found->second -= same;
  }
  for (const auto& [field, left] : said) counts.other += left;
  return counts;
}

double tree_edit_accuracy(const Json& truth, const Json& answer) {
  if (truth.dump().size() > kMostBytes || answer.dump().size() > kMostBytes) return 0;
  const PostOrder wanted(document(truth)), said(document(answer));
  if (wanted.size() > kMostNodes || said.size() > kMostNodes) return 0;
  const auto all = static_cast<double>(wanted.insertion_cost());
  if (all == 0) return said.size() == 1 ? 1 : 0;
  return std::max(0.0, 1 - static_cast<double>(tree_edit_distance(said, wanted)) / all);
}

std::optional<char> choice_of(std::string_view text) {
  const std::vector<std::u32string> found = words(text);
  for (const std::u32string& word : found) {
    if (word.size() == 1 && is_choice_letter(word[0])) return static_cast<char>(word[0]);
  }
  // A small letter may be an article, unless there is nothing else.
  if (found.size() == 1 && found[0].size() == 1 && found[0][0] >= U'a' && found[0][0] <= U'h') {
    return static_cast<char>(found[0][0] - U'a' + U'A');
  }
  return std::nullopt;
}

bool is_choice(std::string_view text) {
  if (!choice_of(text)) return false;
  int64_t letters = 0;
  for (std::u32string word : words(text)) {
    std::ranges::transform(word, word.begin(), lowered);
    letters += word.size() == 1;
    const bool phrase = word == U"the" || word == U"correct" || word == U"answer" ||
                        word == U"is" || word == U"option" || word == U"choice" ||
                        word == U"figure";
    if (word.size() != 1 && !phrase) return false;
  }
  return letters == 1;
}

}  // namespace trestle
