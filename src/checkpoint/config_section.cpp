#include "checkpoint/config_section.h"

#include <algorithm>
#include <cmath>

namespace trestle {

ConfigSection::ConfigSection(const Json& json, std::string what, std::string prefix)
    : json_(json), what_(std::move(what)), prefix_(std::move(prefix)) {
  if (!json_.is_object()) {
    user_error("{}: {} is not an object", what_,
               prefix_.empty() ? "the text" : prefix_.substr(0, prefix_.size() - 1));
  }
}

const Json* ConfigSection::find(const char* key) const {
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

ConfigSection ConfigSection::child(const char* key) const {
  if (!has(key)) user_error("{}: {}{} is missing", what_, prefix_, key);
  return {json_.at(key), what_, prefix_ + key + "."};
}

int64_t ConfigSection::count(const char* key, int64_t fallback, int64_t max, int64_t min) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number_integer() || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    user_error("{}: {}{}={} is not a whole number from {} to {}", what_, prefix_, key,
               value->dump(), min, max);
  }
  return value->get<int64_t>();
}

std::optional<double> ConfigSection::number(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    user_error("{}: {}{}={} is not a number", what_, prefix_, key, value->dump());
  }
  return value->get<double>();
}

double ConfigSection::positive(const char* key, double fallback) const {
  const double value = number(key).value_or(fallback);
  if (value <= 0) user_error("{}: {}{}={} must be above 0", what_, prefix_, key, value);
  return value;
}

std::optional<bool> ConfigSection::flag(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    user_error("{}: {}{}={} is neither true nor false", what_, prefix_, key, value->dump());
  }
  return value->get<bool>();
}

std::string ConfigSection::text(const char* key, const std::string& fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    user_error("{}: {}{}={} is not a string", what_, prefix_, key, value->dump());
  }
  return value->get<std::string>();
}

void ConfigSection::refuse(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr || *value == Json(false) || *value == Json(0)) return;
  user_error("{}: {}{}={} is not supported", what_, prefix_, key, value->dump());
}

void ConfigSection::refuse_all_but(std::initializer_list<std::string_view> known) const {
  for (const auto& [key, value] : json_.items()) {
    if (value.is_null() || std::ranges::find(known, key) != known.end()) continue;
    user_error("{}: {}{}={} is not supported", what_, prefix_, key, value.dump());
  }
}

}  // namespace trestle
