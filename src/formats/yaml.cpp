#include "formats/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace trestle {

namespace {

constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr size_t kMaxNodes = 1 << 16;
constexpr size_t kMaxDepth = 64;

template <class T>
std::optional<T> number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// What a plain scalar means.
Json scalar(const std::string& text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL")
    return nullptr;
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  if (const auto value = number<int64_t>(text)) return *value;
  if (text == ".inf" || text == "+.inf") return std::numeric_limits<double>::infinity();
  if (text == "-.inf") return -std::numeric_limits<double>::infinity();
  if (text == ".nan") return std::numeric_limits<double>::quiet_NaN();
  // from_chars also takes "inf" and "nan", which are words in YAML.
  if (text.find_first_of("0123456789") != std::string::npos) {
    if (const auto value = number<double>(text)) return *value;
  }
  return text;
}

// Builds JSON from the parser's events, so that no tree of yaml-cpp's own, which aliases can blow
// up, ever exists.
class JsonBuilder : public YAML::EventHandler {
 public:
  explicit JsonBuilder(std::string_view what) : what_(what) {}
  Json take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t anchor) override { add(nullptr, anchor, 1); }
  void OnAlias(const YAML::Mark&, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) user_error("{}: an alias to a value that is not finished", what_);
    const auto& [value, nodes] = found->second;
    count(nodes);  // before the copy is made
    nodes_ -= nodes;
    add(value, 0, nodes);
  }
  void OnScalar(const YAML::Mark&, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    // yaml-cpp tags quoted scalars "!" and plain ones "?".
    if (!is_usual_yaml_tag(tag)) {
      user_error("{}: {} has the tag {}, which means nothing here; leave it out", what_, value,
                 tag);
    }
    add(tag == "?" || tag.empty() ? scalar(value) : Json(value), anchor, 1);
  }
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Json::array(), anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Json::object(), anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    Json value;
    YAML::anchor_t anchor;
    size_t nodes_before;
    std::optional<std::string> key;
  };

  void count(size_t nodes) {
    nodes_ += nodes;
    if (nodes_ > kMaxNodes) user_error("{}: over {} YAML values", what_, kMaxNodes);
  }
  void open(Json value, YAML::anchor_t anchor) {
    if (levels_.size() >= kMaxDepth)
      user_error("{}: YAML nested deeper than {} levels", what_, kMaxDepth);
    levels_.push_back({std::move(value), anchor, nodes_, std::nullopt});
  }
  void close() {
    Level level = std::move(levels_.back());
    levels_.pop_back();
    const size_t nodes = nodes_ - level.nodes_before + 1;
    nodes_ = level.nodes_before;
    add(std::move(level.value), level.anchor, nodes);
  }
  void add(Json value, YAML::anchor_t anchor, size_t nodes) {
    count(nodes);
    if (anchor != 0) anchors_[anchor] = {value, nodes};
    if (levels_.empty()) {
      root_ = std::move(value);
      return;
    }
    Level& level = levels_.back();
    if (level.value.is_array()) {
      level.value.push_back(std::move(value));
    } else if (!level.key) {
      if (value.is_structured()) user_error("{}: a YAML key that is a list or map", what_);
      level.key = value.is_string() ? value.get<std::string>() : value.dump();
    } else {
      level.value[*level.key] = std::move(value);
      level.key.reset();
    }
  }

  std::string_view what_;
  Json root_;
  size_t nodes_ = 0;
  std::vector<Level> levels_;
  std::map<YAML::anchor_t, std::pair<Json, size_t>> anchors_;
};

std::string dump_scalar(const Json& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (std::isinf(number)) return number > 0 ? ".inf" : "-.inf";
    if (std::isnan(number)) return ".nan";
    // PyYAML takes 1e-05 for a string; it wants a point.
    std::string text = value.dump();
    const size_t exponent = text.find('e');
    if (exponent != std::string::npos && text.find('.') == std::string::npos) {
      text.insert(exponent, ".0");
    }
    return text;
  }
  // A JSON string is a double-quoted YAML scalar; empty lists and objects are flow style.
  return value.dump();
}

// YAML 1.1, which PyYAML reads, has more words for true and false.
bool is_plain_key(const std::string& key) {
  static const std::set<std::string> kWords = {"y",  "Y",   "yes", "Yes", "YES", "n",
                                               "N",  "no",  "No",  "NO",  "on",  "On",
                                               "ON", "off", "Off", "OFF"};
  return scalar(key).is_string() && !kWords.contains(key) &&
         std::ranges::all_of(
             key, [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.'; });
}

void dump(const Json& value, size_t indent, std::string& out) {
  const std::string margin(indent, ' ');
  const auto put = [&](const Json& item) {
    if (item.is_structured() && !item.empty()) {
      out += '\n';
      dump(item, indent + 2, out);
    } else {
      out += ' ' + dump_scalar(item) + '\n';
    }
  };
  if (value.is_object()) {
    for (const auto& [key, item] : value.items()) {
      out += margin + (is_plain_key(key) ? key : Json(key).dump()) + ':';
      put(item);
    }
  } else {
    for (const Json& item : value) {
      out += margin + '-';
      put(item);
    }
  }
}

}  // namespace

Json parse_yaml(std::string_view text, std::string_view what) {
  if (text.size() > kMaxBytes) {
    user_error("{} has {} bytes; at most {} are read", what, text.size(), kMaxBytes);
  }
  // yaml-cpp lets other bytes through, and JSON cannot say them.
  if (!is_utf8(text)) user_error("{}: not valid YAML: it is not UTF-8", what);
  std::istringstream stream{std::string(text)};
  JsonBuilder builder(what);
  try {
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
  } catch (const YAML::Exception& error) {
    user_error("{}: not valid YAML: line {}: {}", what, error.mark.line + 1, error.msg);
  }
  return builder.take();
}

Json read_yaml(const std::filesystem::path& path) {
  return parse_yaml(read_text(path, kMaxBytes), path.string());
}

std::string dump_yaml(const Json& value) {
  if (!value.is_structured() || value.empty()) return dump_scalar(value) + "\n";
  std::string out;
  dump(value, 0, out);
  return out;
}

}  // namespace trestle
