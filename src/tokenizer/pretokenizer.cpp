#include "tokenizer/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "base/error.h"
#include "tokenizer/pretokenizer_unicode.h"

namespace trestle {

namespace {

constexpr size_t kMaxPattern = 1 << 16;
constexpr uint32_t kHeapLimitKib = 256 * 1024;

// PCRE2's own \s also holds U+180E, which is not White_Space.
constexpr std::string_view kWhiteSpace =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

const UnicodeAddition* find_addition(std::string_view property) {
  const auto* end = std::end(kUnicodeAdditions);
  const auto* found = std::find_if(std::begin(kUnicodeAdditions), end,
                                   [&](const auto& row) { return row.property == property; });
  return found == end ? nullptr : found;
}

// The pattern with every class spelled so that the Unicode version of the PCRE2 at hand does not
// matter.
std::string expand_classes(std::string_view pattern, std::string_view what) {
  std::string out;
  bool in_class = false;
  const auto add = [&](bool negated, std::string_view members, std::string_view more) {
    if (negated && in_class) {
      user_error("{}: a negated class inside brackets is not supported in a tokenizer pattern",
                 what);
    }
    if (!in_class) out += negated ? "[^" : "[";
    out.append(members).append(more);
    if (!in_class) out += ']';
  };
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      out += c;
      continue;
    }
    const char kind = pattern[++i];
    if (kind == 's' || kind == 'S') {
      add(kind == 'S', kWhiteSpace, "");
      continue;
    }
    const size_t close = pattern.find('}', i);
    if ((kind == 'p' || kind == 'P') && pattern.substr(i + 1, 1) == "{" &&
        close != std::string_view::npos) {
      const std::string_view property = pattern.substr(i + 2, close - i - 2);
      if (const UnicodeAddition* row = find_addition(property)) {
        add(kind == 'P', fmt::format("\\p{{{}}}", property), row->ranges);
        i = close;
        continue;
      }
    }
    out += {'\\', kind};
  }
  return out;
}

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

struct Pretokenizer::Compiled {
  std::string what;
  pcre2_code* code = nullptr;
  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }
};

Pretokenizer::Pretokenizer(std::string_view pattern, std::string_view what) {
  if (pattern.size() > kMaxPattern) {
    user_error("{}: the pattern has {} bytes; at most {} are taken", what, pattern.size(),
               kMaxPattern);
  }
  auto compiled = std::make_unique<Compiled>();
  compiled->what = what;
  const std::string expanded = expand_classes(pattern, what);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // \C would end a match inside a character, where the next may not start.
  compiled->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expanded.data()), expanded.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (compiled->code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    user_error("{}: the pattern does not compile: {}", what, reinterpret_cast<char*>(message));
  }
  // Where the machine forbids executable memory the interpreter, which is not recursive, does the
  // work.
  pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE);
  compiled_ = std::move(compiled);
}

Pretokenizer::~Pretokenizer() = default;
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer& Pretokenizer::operator=(Pretokenizer&&) noexcept = default;

void Pretokenizer::split(std::string_view text,
                         const std::function<void(std::string_view)>& piece) const {
  const pcre2_code* code = compiled_->code;
  const std::unique_ptr<pcre2_match_data, FreeMatch> data(pcre2_match_data_create(1, nullptr));
  const std::unique_ptr<pcre2_match_context, FreeMatch> context(
      pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) machine_error("out of memory in the tokenizer");
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  // A word as long as the text is one piece, and one step a letter is honest work.
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<size_t>(
                                           10'000'000 + 16 * text.size(), UINT32_MAX)));
  const auto match = [&](size_t at, uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                       PCRE2_NO_UTF_CHECK | options, data.get(), context.get());
  };
  size_t done = 0;
  while (done < text.size()) {
    int found = match(done, PCRE2_NOTEMPTY);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(done, PCRE2_NOTEMPTY | PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      PCRE2_UCHAR message[256];
      pcre2_get_error_message(found, message, sizeof message);
      user_error("{}: the pattern fails on a text of {} bytes: {}", compiled_->what, text.size(),
                 reinterpret_cast<char*>(message));
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    if (span[0] < done || span[1] <= span[0]) {  // \K or a look-behind can do this
      user_error("{}: the pattern matches backwards; it is no tokenizer pattern", compiled_->what);
    }
    if (span[0] > done) piece(text.substr(done, span[0] - done));
    piece(text.substr(span[0], span[1] - span[0]));
    done = span[1];
  }
  if (done < text.size()) piece(text.substr(done));
}

}  // namespace trestle
