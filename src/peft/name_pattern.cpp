#include "peft/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

namespace trestle {

namespace {

constexpr size_t kMaxPattern = 1 << 16;
constexpr uint32_t kMaxSteps = 1 << 20, kMaxDepth = 1 << 12, kHeapLimitKib = 1 << 14;

PCRE2_SPTR bytes(const std::string& text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

pcre2_code* code_of(const std::shared_ptr<void>& code) {
  return static_cast<pcre2_code*>(code.get());
}

}  // namespace

std::optional<NamePattern> NamePattern::compile(const std::string& pattern) {
  if (pattern.size() > kMaxPattern) return std::nullopt;
  int error = 0;
  size_t offset = 0;
  pcre2_code* code = pcre2_compile(bytes(pattern), pattern.size(),
                                   PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &offset, nullptr);
  if (code == nullptr) return std::nullopt;
  return NamePattern({code, [](void* held) { pcre2_code_free(static_cast<pcre2_code*>(held)); }});
}

std::optional<bool> NamePattern::matches(const std::string& name) const {
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> found(
      pcre2_match_data_create_from_pattern(code_of(code_), nullptr), pcre2_match_data_free);
  pcre2_set_match_limit(limits.get(), kMaxSteps);
  pcre2_set_depth_limit(limits.get(), kMaxDepth);
  pcre2_set_heap_limit(limits.get(), kHeapLimitKib);
  const int result =
      pcre2_match(code_of(code_), bytes(name), name.size(), 0, 0, found.get(), limits.get());
  if (result == PCRE2_ERROR_NOMATCH) return false;
  return result >= 0 ? std::optional(true) : std::nullopt;
}

}  // namespace trestle
