// One JSON object of a config file, read key by key so that every complaint names file, key and
// value. Used by hf_config only.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace trestle {

/// Views `json`, which must outlive it. `prefix` is the path of the object, "" or "text_config.". A
/// null counts as absent, as it does for transformers' optional keys. Every getter throws UserError
/// on a value of the wrong kind.
class ConfigSection {
 public:
  ConfigSection(const Json& json, std::string what, std::string prefix);

  /// The value, or nullptr where it is absent or null.
  const Json* find(const char* key) const;
  bool has(const char* key) const { return find(key) != nullptr; }
  /// Written in the file, be it as null.
  bool states(const char* key) const { return json_.contains(key); }
  /// An object inside this one, which must be there.
  ConfigSection child(const char* key) const;

  /// A whole number from `min` to `max`.
  int64_t count(const char* key, int64_t fallback, int64_t max, int64_t min = 1) const;
  std::optional<double> number(const char* key) const;
  double positive(const char* key, double fallback) const;
  std::optional<bool> flag(const char* key) const;
  std::string text(const char* key, const std::string& fallback) const;
  /// The value that the string names among `choices`, else an error that lists them.
  template <class Value>
  Value choice(const char* key, const std::string& fallback,
               std::initializer_list<std::pair<const char*, Value>> choices) const {
    const std::string name = text(key, fallback);
    std::string known;
    for (const auto& [choice, value] : choices) {
      if (name == choice) return value;
      known += (known.empty() ? "" : ", ") + std::string(choice);
    }
    user_error("{}: {}{}={} is not supported; supported: {}", what_, prefix_, key, name, known);
  }
  /// Refuses any value but false and 0.
  void refuse(const char* key) const;
  /// Refuses every other key that has a value.
  void refuse_all_but(std::initializer_list<std::string_view> known) const;

  const std::string& what() const { return what_; }
  const std::string& prefix() const { return prefix_; }

 private:
  const Json& json_;
  std::string what_;
  std::string prefix_;
};

}  // namespace trestle
