#include "tokenizer/utf8.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text.h"

namespace trestle {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The value of \uXXXX at `at`, if that is what stands there.
std::optional<uint32_t> unicode_escape(std::string_view text, size_t at) {
  if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') return std::nullopt;
  uint32_t value = 0;
  for (size_t i = at + 2; i < at + 6; ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + static_cast<uint32_t>(digit);
  }
  return value;
}

}  // namespace

void append_utf8(std::string& out, uint32_t c) {
  if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) c = 0xFFFD;
  const auto continuation = [](uint32_t bits) { return static_cast<char>(0x80 | (bits & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += {static_cast<char>(0xC0 | c >> 6), continuation(c)};
  } else if (c < 0x10000) {
    out += {static_cast<char>(0xE0 | c >> 12), continuation(c >> 6), continuation(c)};
  } else {
    out += {static_cast<char>(0xF0 | c >> 18), continuation(c >> 12), continuation(c >> 6),
            continuation(c)};
  }
}

void Utf8Repairer::push(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    if (needed_ > 0) {
      if (byte >= lower_ && byte <= upper_) {
        lower_ = 0x80;
        upper_ = 0xBF;
        pending_[size_++] = c;
        if (--needed_ == 0) {
          out.append(pending_, static_cast<size_t>(size_));
          size_ = 0;
        }
        continue;
      }
      flush(out);  // the byte starts anew
    }
    if (byte < 0x80) {
      out += c;
      continue;
    }
    if (byte < 0xC2 || byte > 0xF4) {
      out += kReplacement;
      continue;
    }
    needed_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    // Second bytes that would spell an overlong form, a surrogate or a value past U+10FFFF.
    lower_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
    upper_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    pending_[0] = c;
    size_ = 1;
  }
}

void Utf8Repairer::flush(std::string& out) {
  if (needed_ > 0) out += kReplacement;
  needed_ = size_ = 0;
  lower_ = 0x80;
  upper_ = 0xBF;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  Utf8Repairer repairer;
  repairer.push(text, out);
  repairer.flush(out);
  return out;
}

void require_utf8(std::string_view text, std::string_view flag) {
  if (is_utf8(text)) return;
  const std::string repaired = repair_utf8(text);
  const auto bad = std::ranges::mismatch(text, repaired).in1;
  user_error("{}: byte {} of the text is no UTF-8; give it as UTF-8", flag, bad - text.begin() + 1);
}

std::string repair_json_text(std::string_view raw) {
  std::string text = repair_utf8(raw);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') continue;
    const auto value = unicode_escape(text, i);
    if (!value) {
      ++i;  // the character escaped, which may be another backslash
      continue;
    }
    if (*value >= 0xD800 && *value <= 0xDFFF) {
      const auto low = *value < 0xDC00 ? unicode_escape(text, i + 6) : std::nullopt;
      if (low && *low >= 0xDC00 && *low <= 0xDFFF) {
        i += 6;
      } else {
        text.replace(i, 6, "\\ufffd");
      }
    }
    i += 5;
  }
  return text;
}

}  // namespace trestle
