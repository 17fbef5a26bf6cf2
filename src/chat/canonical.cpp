#include "chat/canonical.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace trestle {

namespace {

constexpr int kMaxDepth = 100;

// repr(float): the shortest digits that read back the same, with an exponent below 1e-4 and from
// 1e16 on.
std::string python_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, std::end(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  if (exponent < -4 || exponent >= 16) return std::string(text);
  std::string fixed(buffer,
                    std::to_chars(buffer, std::end(buffer), value, std::chars_format::fixed).ptr);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

/// Reads one document and writes it again on the way.
class Rewriter {
 public:
  explicit Rewriter(std::string_view text) : text_(text) {}

  std::optional<std::string> document() {
    auto value = this->value(0);
    skip_space();
    return value && at_ == text_.size() ? std::move(value) : std::nullopt;
  }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\n\r", at_), text_.size()); }

  bool take(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return false;
    at_ += expected.size();
    return true;
  }

  std::optional<std::string> value(int depth) {
    if (depth > kMaxDepth) user_error("JSON nested deeper than {}", kMaxDepth);
    skip_space();
    for (const char* word : {"null", "true", "false", "NaN", "Infinity", "-Infinity"}) {
      if (take(word)) return word;
    }
    if (take("{")) return object(depth);
    if (take("[")) return array(depth);
    if (take("\"")) {
      const auto content = string();
      return content ? std::optional(python_json_string(*content)) : std::nullopt;
    }
    return number();
  }

  std::optional<std::string> array(int depth) {
    std::string out = "[";
    skip_space();
    if (take("]")) return out + "]";
    while (true) {
      const auto element = value(depth + 1);
      if (!element) return std::nullopt;
      out += *element;
      skip_space();
      if (take("]")) return out + "]";
      if (!take(",")) return std::nullopt;
      out += ", ";
    }
  }

  std::optional<std::string> object(int depth) {
    std::vector<std::pair<std::string, std::string>> members;
    std::unordered_map<std::string, size_t> places;
    skip_space();
    if (take("}")) return "{}";
    while (true) {
      skip_space();
      if (!take("\"")) return std::nullopt;
      const auto key = string();
      skip_space();
      if (!key || !take(":")) return std::nullopt;
      auto element = value(depth + 1);
      if (!element) return std::nullopt;
      // A key that comes again keeps its first place and takes the last value, as in a dict.
      const auto [place, is_new] = places.emplace(*key, members.size());
      if (is_new) {
        members.emplace_back(*key, std::move(*element));
      } else {
        members[place->second].second = std::move(*element);
      }
      skip_space();
      if (take("}")) break;
      if (!take(",")) return std::nullopt;
    }
    std::string out;
    for (const auto& [key, element] : members) {
      out += (out.empty() ? "{" : ", ") + python_json_string(key) + ": " + element;
    }
    return out + "}";
  }

  // The content of a string whose opening quote is read.
  std::optional<std::string> string() {
    std::string out;
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') return out;
      if (static_cast<uint8_t>(c) < 0x20) return std::nullopt;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ == text_.size()) return std::nullopt;
      constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
      const char escape = text_[at_++];
      if (const size_t which = kEscapes.find(escape); which != std::string_view::npos) {
        out += kMeanings[which];
        continue;
      }
      auto code = escape == 'u' ? hex4() : std::nullopt;
      if (!code) return std::nullopt;
      if (*code >= 0xD800 && *code < 0xDC00) {
        const size_t here = at_;
        const auto low = take("\\u") ? hex4() : std::nullopt;
        if (low && *low >= 0xDC00 && *low < 0xE000) {
          code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
        } else {
          at_ = here;
        }
      }
      append_utf8(out, *code);
    }
    return std::nullopt;
  }

  std::optional<uint32_t> hex4() {
    uint32_t code = 0;
    const char* begin = text_.data() + at_;
    if (text_.size() - at_ < 4 || std::from_chars(begin, begin + 4, code, 16).ptr != begin + 4) {
      return std::nullopt;
    }
    at_ += 4;
    return code;
  }

  std::optional<std::string> number() {
    const size_t start = at_;
    const auto digits = [&] {
      const size_t from = at_;
      while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
      return at_ > from;
    };
    take("-");
    if (!take("0") && !digits()) return std::nullopt;
    const size_t whole = at_;
    // What follows counts only if it is complete: "1." is a 1 and then something that is no JSON.
    size_t end = whole;
    if (take(".") && digits()) end = at_;
    at_ = end;
    if (take("e") || take("E")) {
      if (!take("+")) take("-");
      if (digits()) end = at_;
    }
    at_ = end;
    const std::string text(text_.substr(start, end - start));
    if (end == whole) return text == "-0" ? "0" : text;  // of any length
    return python_float(std::strtod(text.c_str(), nullptr));
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::optional<std::string> python_json(std::string_view text) { return Rewriter(text).document(); }

std::string python_json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

}  // namespace trestle
