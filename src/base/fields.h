// One table of fields beside each config struct serves overrides, YAML, printing and help. Used by
// train/config.
//
// struct Optimizer {
//   double lr = 1e-4;
//   static constexpr auto fields() { return std::tuple(field("lr", &Optimizer::lr, "peak learning
//   rate")); }
// };
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace trestle {

template <class Owner, class T>
struct Field {
  std::string_view name;
  T Owner::*member;
  std::string_view help;
};

template <class Owner, class T>
constexpr Field<Owner, T> field(std::string_view name, T Owner::*member,
                                std::string_view help = "") {
  return {name, member, help};
}

template <class T>
concept HasFields = requires {
  T::fields();
};

namespace detail {

struct Anything {
  template <class T>
  operator T() const;
};

// The number of members of an aggregate: how many initialisers it takes.
template <class T, class... Args>
constexpr size_t member_count() {
  if constexpr (requires { T{Args{}..., Anything{}}; }) {
    return member_count<T, Args..., Anything>();
  } else {
    return sizeof...(Args);
  }
}

}  // namespace detail

/// Calls visit(field, value) for each field of one level. A member without a field is a compile
/// error.
template <HasFields T, class Visit>
void for_each_field(T& config, Visit&& visit) {
  using Plain = std::remove_const_t<T>;
  static_assert(detail::member_count<Plain>() == std::tuple_size_v<decltype(Plain::fields())>,
                "every member of a config struct needs an entry in its fields()");
  std::apply([&](const auto&... each) { (visit(each, config.*(each.member)), ...); },
             Plain::fields());
}

/// Parsing of one value from the text of an override. `key` names it in errors.
void parse_value(std::string_view key, std::string_view text, bool& value);
void parse_value(std::string_view key, std::string_view text, int64_t& value);
void parse_value(std::string_view key, std::string_view text, double& value);
void parse_value(std::string_view key, std::string_view text, std::string& value);
/// `[a, b]` or `a,b`.
void parse_value(std::string_view key, std::string_view text, std::vector<std::string>& value);
template <class T>
void parse_value(std::string_view key, std::string_view text, std::optional<T>& value) {
  if (text == "null" || text == "none" || text.empty()) {
    value.reset();
  } else {
    parse_value(key, text, value.emplace());
  }
}

/// Every settable path with its value as text and its help, in order: for printing, YAML and "did
/// you mean".
struct FieldText {
  std::string path, value, help;
};

std::string format_value(bool value);
std::string format_value(int64_t value);
std::string format_value(double value);
std::string format_value(const std::string& value);
std::string format_value(const std::vector<std::string>& value);
template <class T>
std::string format_value(const std::optional<T>& value) {
  return value ? format_value(*value) : "null";
}

template <HasFields T>
void list_fields(const T& config, std::vector<FieldText>& out, const std::string& prefix = "") {
  for_each_field(config, [&](const auto& each, const auto& value) {
    const std::string path = prefix + std::string(each.name);
    if constexpr (HasFields<std::decay_t<decltype(value)>>) {
      list_fields(value, out, path + ".");
    } else {
      out.push_back({path, format_value(value), std::string(each.help)});
    }
  });
}

template <HasFields T>
std::vector<FieldText> list_fields(const T& config) {
  std::vector<FieldText> out;
  list_fields(config, out);
  return out;
}

namespace detail {

template <HasFields T>
bool set_at(T& config, std::string_view path, std::string_view key, std::string_view text) {
  const size_t dot = path.find('.');
  const std::string_view head = path.substr(0, dot);
  bool found = false;
  for_each_field(config, [&](const auto& each, auto& value) {
    if (each.name != head) return;
    if constexpr (HasFields<std::decay_t<decltype(value)>>) {
      if (dot != std::string_view::npos) found = set_at(value, path.substr(dot + 1), key, text);
    } else if (dot == std::string_view::npos) {
      parse_value(key, text, value);
      found = true;
    }
  });
  return found;
}

}  // namespace detail

/// The one of `names` nearest to `name` by edit distance.
std::string nearest(std::string_view name, const std::vector<std::string>& names);

[[noreturn]] void unknown_key(std::string_view key, const std::vector<FieldText>& known);

/// Sets `key` (a dotted path, or an older name that T::current_name knows) from text. Throws
/// UserError: an unknown key names the nearest, a bad value its type.
template <HasFields T>
void set_field(T& config, std::string_view key, std::string_view text) {
  if constexpr (requires { T::current_name(key); }) key = T::current_name(key);
  if (!detail::set_at(config, key, key, text)) unknown_key(key, list_fields(config));
}

/// `key=value`.
template <HasFields T>
void apply_override(T& config, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    user_error("override '{}' has no '='; write key.sub=value", assignment);
  }
  set_field(config, assignment.substr(0, equals), assignment.substr(equals + 1));
}

/// Flattens a YAML mapping to dotted paths and texts. Throws UserError on anything but mappings,
/// scalars and lists.
std::vector<std::pair<std::string, std::string>> flatten_yaml(const YAML::Node& node,
                                                              std::string_view what);
YAML::Node load_yaml(const std::string& text, std::string_view what);

template <HasFields T>
void apply_yaml(T& config, const std::string& text, std::string_view what) {
  for (const auto& [key, value] : flatten_yaml(load_yaml(text, what), what)) {
    set_field(config, key, value);
  }
}

/// The whole config as YAML that apply_yaml reads back to the same.
std::string yaml_of(const std::vector<FieldText>& fields);
template <HasFields T>
std::string to_yaml(const T& config) {
  return yaml_of(list_fields(config));
}

}  // namespace trestle
