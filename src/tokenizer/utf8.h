// UTF-8 from sources nobody vouches for: each maximal invalid part becomes one U+FFFD (the WHATWG
// and Python rule). Called by the tokenizer (text in, token bytes out), by whoever reads JSON lines
// and by the flags that take a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trestle {

/// Appends one code point; surrogates and values past U+10FFFF become U+FFFD.
void append_utf8(std::string& out, uint32_t code_point);

/// Turns bytes that arrive in pieces into whole characters. Holds back at most three bytes.
class Utf8Repairer {
 public:
  /// Appends to `out` every character that is complete now, and U+FFFD for what can no longer
  /// become one.
  void push(std::string_view bytes, std::string& out);
  /// Appends U+FFFD if a character was left unfinished.
  void flush(std::string& out);

 private:
  char pending_[4] = {};
  int size_ = 0;
  int needed_ = 0;  // continuation bytes still to come
  uint8_t lower_ = 0x80, upper_ = 0xBF;
};

/// `text` with invalid parts replaced; valid text comes back unchanged.
std::string repair_utf8(std::string_view text);

/// Throws UserError, naming the byte, where `text`, which `flag` gave, is not valid UTF-8.
void require_utf8(std::string_view text, std::string_view flag);

/// A line of JSON that a strict parser can take: repair_utf8, and escapes of unpaired surrogates
/// (\ud83d alone) rewritten as \ufffd, which is what decoding them with replacement gives.
std::string repair_json_text(std::string_view text);

}  // namespace trestle
