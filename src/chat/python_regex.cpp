#include "chat/python_regex.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace trestle {

namespace {

constexpr int kMaxDepth = 100;
constexpr uint64_t kMaxRepeat = std::numeric_limits<uint32_t>::max();  // stands for "any number"

std::u32string code_points(std::string_view text) {
  std::u32string out;
  for (const char c : repair_utf8(text)) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x80) {
      out += static_cast<char32_t>(byte);
    } else if (byte >= 0xC0) {  // a first byte: its own bits, those of the others follow
      out += static_cast<char32_t>(byte & (byte < 0xE0 ? 0x1F : byte < 0xF0 ? 0x0F : 0x07));
    } else {
      out.back() = out.back() << 6 | (byte & 0x3Fu);
    }
  }
  return out;
}

bool is_one_of(char32_t c, std::u32string_view set) { return set.find(c) != set.npos; }
bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }
bool is_octal(char32_t c) { return c >= U'0' && c <= U'7'; }
bool is_letter(char32_t c) { return (c | 0x20) >= U'a' && (c | 0x20) <= U'z'; }
bool is_hex(char32_t c) { return is_digit(c) || ((c | 0x20) >= U'a' && (c | 0x20) <= U'f'); }

// Letters outside ASCII count as such; Python's tables are not asked.
bool is_identifier(std::u32string_view name) {
  const auto starts = [](char32_t c) { return c == U'_' || c >= 0x80 || is_letter(c); };
  return !name.empty() && starts(name[0]) &&
         std::ranges::all_of(name, [&](char32_t c) { return starts(c) || is_digit(c); });
}

// Whether Unicode's names look like this; Python looks them up.
bool may_name_character(std::u32string_view name) {
  return name.size() > 1 && is_letter(name[0]) && std::ranges::all_of(name, [](char32_t c) {
           return is_letter(c) || is_digit(c) || c == U' ' || c == U'-';
         });
}

/// How many characters a part of a pattern takes.
struct Width {
  uint64_t least = 0, most = 0;

  void add(Width next) {
    least = std::min(least + next.least, kMaxRepeat - 1);
    most = std::min(most + next.most, kMaxRepeat);
  }
  void either(Width other) {
    least = std::min(least, other.least);
    most = std::max(most, other.most);
  }
};

/// The grammar of Python's re._parser, for its errors alone.
class PatternParser {
 public:
  PatternParser(std::string_view pattern, const std::string& where)
      : text_(code_points(pattern)), pattern_(pattern), where_(where) {}

  void parse() {
    require_whole_escapes();
    alternatives(0, false);
    if (at_ < text_.size()) refuse("unbalanced parenthesis");
    for (const size_t group : tested_) {
      if (group >= groups_.size()) refuse("invalid group reference");
    }
  }

 private:
  /// What may be repeated, and what not.
  enum class Item { kNone, kPlace, kRepeat, kOther };
  struct Group {
    std::optional<Width> width = std::nullopt;  // nothing while it is open
  };
  struct Escape {
    Item item = Item::kOther;
    Width width = {1, 1};
    std::optional<char32_t> character = std::nullopt;
  };

  [[noreturn]] void refuse(std::string_view why) const {
    user_error("{}: Python's re does not compile the pattern \"{}\": {}", where_, pattern_, why);
  }

  // A character, or a backslash with what it escapes, which are never parted.
  std::u32string_view peek() const {
    return std::u32string_view(text_).substr(at_,
                                             at_ < text_.size() && text_[at_] == U'\\' ? 2 : 1);
  }
  bool at_end() const { return at_ >= text_.size(); }
  bool next_is(char32_t c) const { return peek() == std::u32string_view(&c, 1); }
  std::u32string_view get(std::string_view otherwise) {
    if (at_end()) refuse(otherwise);
    const std::u32string_view token = peek();
    at_ += token.size();
    return token;
  }
  bool take(char32_t c) {
    const bool is_next = next_is(c);
    if (is_next) ++at_;
    return is_next;
  }
  template <class Is>
  std::u32string take_while(Is is, size_t most) {
    std::u32string out;
    while (!at_end() && out.size() < most && is(text_[at_])) out += text_[at_++];
    return out;
  }
  std::u32string take_until(char32_t end) {
    std::u32string out;
    while (!next_is(end)) out += get("a name that does not end");
    ++at_;
    if (out.empty()) refuse("a name that is missing");
    return out;
  }
  void close() {
    if (!take(U')')) refuse("missing ), unterminated subpattern");
  }

  void require_whole_escapes() const {
    size_t at = 0;
    while (at < text_.size()) at += text_[at] == U'\\' ? 2 : 1;
    if (at > text_.size()) refuse("bad escape at its end");
  }

  Width alternatives(int depth, bool verbose) {
    if (depth > kMaxDepth) refuse(fmt::format("its groups nest deeper than {}", kMaxDepth));
    Width width = sequence(depth, verbose, depth == 0);
    while (take(U'|')) width.either(sequence(depth, depth == 0 ? verbose_ : verbose, false));
    return width;
  }

  // `first`: flags for the whole pattern may stand here.
  Width sequence(int depth, bool verbose, bool first) {
    Width whole, last;
    Item item = Item::kNone;
    const auto append = [&](Item kind, Width width) {
      whole.add(last);
      item = kind;
      last = width;
    };
    while (!at_end() && !next_is(U'|') && !next_is(U')')) {
      const std::u32string_view token = get("");
      const char32_t c = token[0];
      if (verbose && is_one_of(c, U" \t\n\r\v\f")) continue;
      if (verbose && c == U'#') {
        while (!at_end() && get("") != U"\n") {
        }
      } else if (c == U'\\') {
        const Escape escaped = escape(token[1]);
        append(escaped.item, escaped.width);
      } else if (c == U'[') {
        character_set();
        append(Item::kOther, {1, 1});
      } else if (is_one_of(c, U"*+?{")) {
        const auto times = repeat(c);
        if (!times) {
          append(Item::kOther, {1, 1});  // a brace that is one
          continue;
        }
        if (item == Item::kNone || item == Item::kPlace) refuse("nothing to repeat");
        if (item == Item::kRepeat) refuse("multiple repeat");
        if (!take(U'?')) take(U'+');
        item = Item::kRepeat;
        last = {std::min(last.least * times->least, kMaxRepeat - 1),
                std::min(last.most * times->most, kMaxRepeat)};
      } else if (c == U'^' || c == U'$') {
        append(Item::kPlace, {});
      } else if (c == U'(') {
        const auto width = group(depth, verbose, first && item == Item::kNone);
        if (width) append(Item::kOther, *width);
        if (depth == 0) verbose = verbose_;
      } else {
        append(Item::kOther, {1, 1});
      }
    }
    whole.add(last);
    return whole;
  }

  // Nothing for a brace that begins no count.
  std::optional<Width> repeat(char32_t c) {
    if (c == U'?') return Width{0, 1};
    if (c == U'*') return Width{0, kMaxRepeat};
    if (c == U'+') return Width{1, kMaxRepeat};
    if (next_is(U'}')) return std::nullopt;
    const size_t start = at_;
    const std::u32string low = take_while(is_digit, text_.size());
    const std::u32string high = take(U',') ? take_while(is_digit, text_.size()) : low;
    if (!take(U'}')) {
      at_ = start;
      return std::nullopt;
    }
    const auto number = [&](const std::u32string& digits, uint64_t otherwise) {
      uint64_t value = digits.empty() ? otherwise : 0;
      for (const char32_t digit : digits) {
        value = value * 10 + (digit - U'0');
        if (value >= kMaxRepeat) refuse("the repetition number is too large");
      }
      return value;
    };
    const Width times{number(low, 0), number(high, kMaxRepeat)};
    if (times.most < times.least) refuse("min repeat greater than max repeat");
    return times;
  }

  char32_t hexadecimal(size_t digits) {
    const std::u32string hex = take_while(is_hex, digits);
    if (hex.size() != digits) refuse("incomplete escape");
    uint64_t value = 0;
    for (const char32_t c : hex)
      value = value * 16 + (is_digit(c) ? c - U'0' : (c | 0x20) - U'a' + 10);
    if (value > 0x10FFFF) refuse("bad escape: no such character");
    return static_cast<char32_t>(value);
  }

  char32_t octal(const std::u32string& digits) const {
    char32_t value = 0;
    for (const char32_t c : digits) value = value * 8 + (c - U'0');
    if (value > 0377) refuse("octal escape value outside of range 0-0o377");
    return value;
  }

  // What an escape means inside a set and outside alike.
  Escape common_escape(char32_t c) {
    constexpr std::u32string_view kControls = U"abfnrtv", kMeanings = U"\a\b\f\n\r\t\v";
    if (const size_t at = kControls.find(c); at != kControls.npos)
      return {.character = kMeanings[at]};
    if (is_one_of(c, U"dDsSwW")) return {};
    if (c == U'x' || c == U'u' || c == U'U') {
      return {.character = hexadecimal(c == U'x' ? 2 : c == U'u' ? 4 : 8)};
    }
    if (c == U'N') {
      if (!take(U'{')) refuse("missing {");
      if (!may_name_character(take_until(U'}'))) refuse("undefined character name");
      return {.character = std::nullopt};
    }
    if (is_letter(c)) refuse("bad escape");
    return {.character = c};
  }

  Escape escape(char32_t c) {
    if (is_one_of(c, U"AbBZ")) return {.item = Item::kPlace, .width = {}};
    if (c == U'0') return {.character = octal(U"0" + take_while(is_octal, 2))};
    if (!is_digit(c)) return common_escape(c);
    std::u32string digits(1, c);
    digits += take_while(is_digit, 1);
    if (digits.size() == 2 && is_octal(digits[0]) && is_octal(digits[1]) && !at_end() &&
        is_octal(text_[at_])) {
      return {.character = octal(digits + text_[at_++])};
    }
    size_t number = 0;
    for (const char32_t digit : digits) number = number * 10 + (digit - U'0');
    return {.width = reference(number)};
  }

  Escape set_escape(char32_t c) {
    if (is_octal(c)) return {.character = octal(c + take_while(is_octal, 2))};
    if (is_digit(c)) refuse("bad escape");
    return common_escape(c);
  }

  void character_set() {
    constexpr std::string_view kOpen = "unterminated character set";
    take(U'^');
    const auto element = [&](std::u32string_view token) {
      return token[0] == U'\\' ? set_escape(token[1]).character : std::optional(token[0]);
    };
    for (bool is_empty = true;; is_empty = false) {
      const std::u32string_view token = get(kOpen);
      if (token == U"]" && !is_empty) return;
      const auto low = element(token);
      if (!take(U'-')) continue;
      const std::u32string_view end = get(kOpen);
      if (end == U"]") return;
      const auto high = element(end);
      if (!low || !high || *high < *low) refuse("bad character range");
    }
  }

  // Of a group that is closed, and does not lie in the same look-behind.
  Width reference(size_t group) const {
    if (group >= groups_.size()) refuse("invalid group reference");
    if (!groups_[group].width) refuse("cannot refer to an open group");
    require_before_lookbehind(group);
    return *groups_[group].width;
  }

  void require_before_lookbehind(size_t group) const {
    if (!lookbehind_) return;
    if (group < groups_.size() && !groups_[group].width) refuse("cannot refer to an open group");
    if (group >= *lookbehind_) {
      refuse("cannot refer to group defined in the same lookbehind subpattern");
    }
  }

  size_t named_group(const std::u32string& name) const {
    const auto found = names_.find(name);
    if (found == names_.end()) refuse("unknown group name");
    return found->second;
  }

  // Behind the "(". Nothing for what leaves no part: comments and flags.
  std::optional<Width> group(int depth, bool verbose, bool first) {
    if (!take(U'?')) return capture(depth, verbose);
    constexpr std::string_view kEnd = "unexpected end of pattern";
    const std::u32string_view token = get(kEnd);
    switch (token[0]) {
      case U'P':
        return named(depth, verbose);
      case U':':
      case U'>':
        return contents(depth, verbose);
      case U'#':
        while (get("missing ), unterminated comment") != U")") {
        }
        return std::nullopt;
      case U'=':
      case U'!':
        contents(depth, verbose);
        return Width{};
      case U'<':
        if (!take(U'=') && !take(U'!')) refuse("unknown extension ?<; a name is (?P<name>...)");
        lookbehind(depth, verbose);
        return Width{};
      case U'(':
        return conditional(depth, verbose);
      default:
        return flags(token[0], depth, verbose, first);
    }
  }

  Width contents(int depth, bool verbose) {
    const Width width = alternatives(depth + 1, verbose);
    close();
    return width;
  }

  Width capture(int depth, bool verbose, const std::u32string& name = {}) {
    const size_t number = groups_.size();
    groups_.emplace_back();
    if (!name.empty() && !names_.emplace(name, number).second)
      refuse("redefinition of a group's name");
    const Width width = contents(depth, verbose);
    groups_[number].width = width;
    return width;
  }

  Width named(int depth, bool verbose) {
    const auto identifier = [&](char32_t end) {
      std::u32string name = take_until(end);
      if (!is_identifier(name)) refuse("bad character in group name");
      return name;
    };
    if (take(U'<')) return capture(depth, verbose, identifier(U'>'));
    if (take(U'=')) return reference(named_group(identifier(U')')));
    refuse("unknown extension ?P");
  }

  void lookbehind(int depth, bool verbose) {
    const auto outer = lookbehind_;
    if (!lookbehind_) lookbehind_ = groups_.size();
    const Width width = contents(depth, verbose);
    lookbehind_ = outer;
    if (width.least != width.most) refuse("look-behind requires fixed-width pattern");
  }

  Width conditional(int depth, bool verbose) {
    const std::u32string name = take_until(U')');
    size_t number = 0;
    if (is_identifier(name)) {
      number = named_group(name);
    } else {
      if (!std::ranges::all_of(name, is_digit)) refuse("bad character in group name");
      for (const char32_t c : name) number = std::min<size_t>(number * 10 + (c - U'0'), kMaxRepeat);
      if (number == 0) refuse("bad group number");
      tested_.insert(number);
    }
    require_before_lookbehind(number);
    if (depth >= kMaxDepth) refuse(fmt::format("its groups nest deeper than {}", kMaxDepth));
    Width width = sequence(depth + 1, verbose, false);
    if (take(U'|')) {
      width.either(sequence(depth + 1, verbose, false));
      if (next_is(U'|')) refuse("conditional backref with more than two branches");
    } else {
      width.least = 0;
    }
    close();
    return width;
  }

  std::optional<Width> flags(char32_t c, int depth, bool verbose, bool first) {
    std::set<char32_t> on, off;
    const auto is_flag = [](char32_t flag) { return is_one_of(flag, U"aiLmsux"); };
    for (; is_flag(c); c = get("missing -, : or )")[0]) {
      if (c == U'L') refuse("cannot use 'L' flag with a str pattern");
      on.insert(c);
      if (on.contains(U'a') && on.contains(U'u')) refuse("flags 'a', 'u' and 'L' are incompatible");
    }
    if (c == U')' && !on.empty()) {
      if (!first) refuse("global flags not at the start of the expression");
      for (const char32_t flag : on) global_.insert(flag);
      if (global_.contains(U'a') && global_.contains(U'u'))
        refuse("ASCII and UNICODE flags are incompatible");
      verbose_ = global_.contains(U'x');
      return std::nullopt;
    }
    if (c == U'-') {
      c = get("missing flag")[0];
      if (!is_flag(c)) refuse("unknown flag");
      for (; is_flag(c); c = get("missing :")[0]) {
        if (is_one_of(c, U"auL")) refuse("cannot turn off flags 'a', 'u' and 'L'");
        off.insert(c);
        if (on.contains(c)) refuse("flag turned on and off");
      }
    }
    if (c != U':') refuse(on.empty() && off.empty() ? "unknown extension" : "unknown flag");
    return contents(depth, (verbose || on.contains(U'x')) && !off.contains(U'x'));
  }

  std::u32string text_;
  std::string_view pattern_;
  const std::string& where_;
  size_t at_ = 0;
  std::vector<Group> groups_ = {{}};  // the first is the whole
  std::map<std::u32string, size_t> names_;
  std::set<size_t> tested_;           // by conditions, and perhaps not there
  std::optional<size_t> lookbehind_;  // groups that were there when it began
  std::set<char32_t> global_;
  bool verbose_ = false;
};

}  // namespace

void require_python_regex(std::string_view pattern, const std::string& where) {
  PatternParser(pattern, where).parse();
}

}  // namespace trestle
