// Splits text into the pieces inside which byte pairs may merge, by the regular expression of the
// tokenizer's file. Called by the tokenizer only. Character classes are those of Unicode 16,
// whatever PCRE2 the machine has.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace trestle {

class Pretokenizer {
 public:
  /// Compiles `pattern`; `what` names the file in the UserError of a pattern that does not compile.
  Pretokenizer(std::string_view pattern, std::string_view what);
  ~Pretokenizer();
  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer& operator=(Pretokenizer&&) noexcept;

  /// Calls `piece` for each match, left to right, and for the text between matches, so that the
  /// pieces tile `text`. `text` must be valid UTF-8. Linear in practice on the patterns in use; a
  /// pattern that explodes is stopped by PCRE2's limits with a UserError. Thread-safe.
  void split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

 private:
  struct Compiled;
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace trestle
