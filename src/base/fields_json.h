// A config struct as nested JSON with its values' own types. Called by the W&B writer.
#pragma once

#include <string>
#include <type_traits>

#include "base/fields.h"
#include "base/json.h"

namespace trestle {

// A list of data sets is its text, as the config has it.
template <class T>
Json json_of_value(const T& value) {
  if constexpr (std::is_convertible_v<const T&, Json>) {
    return value;
  } else {
    return format_value(value);
  }
}
template <class T>
Json json_of_value(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

template <HasFields T>
Json json_of(const T& config) {
  Json out = Json::object();
  for_each_field(config, [&](const auto& each, const auto& value) {
    if constexpr (HasFields<std::decay_t<decltype(value)>>) {
      out[std::string(each.name)] = json_of(value);
    } else {
      out[std::string(each.name)] = json_of_value(value);
    }
  });
  return out;
}

}  // namespace trestle
