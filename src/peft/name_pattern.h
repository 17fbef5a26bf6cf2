// A regular expression over module names, as peft's target_modules and exclude_modules may be one.
// Called by peft_folder.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace trestle {

/// Python's re.fullmatch, by PCRE2. No pattern of a file runs long: a match has limits.
class NamePattern {
 public:
  /// Nothing where it does not compile here.
  static std::optional<NamePattern> compile(const std::string& pattern);

  /// Nothing where a match goes beyond its limits.
  std::optional<bool> matches(const std::string& name) const;

 private:
  explicit NamePattern(std::shared_ptr<void> code) : code_(std::move(code)) {}

  std::shared_ptr<void> code_;
};

}  // namespace trestle
