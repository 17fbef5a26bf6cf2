// One table of fields beside each config struct serves overrides, YAML, printing and help. Used by
// recipes/config.
//
// struct Optimizer {
//   double lr = 1e-4;
//   static constexpr auto fields() {
//     return std::tuple(field("lr", &Optimizer::lr, OnResume::kFree, above(0, 10), "peak rate"));
//   }
// };
#pragma once

#include <yaml-cpp/yaml.h>

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace trestle {

/// What a resumed run must have of a key (train/identity).
enum class OnResume {
  /// The value that the run was saved with.
  kSame,
  /// It names something whose content must be the same, wherever it lies now.
  kSameContent,
  /// Any value: it changes how a run goes on, or nothing of what it computes.
  kFree,
  /// Settled anew by each run.
  kDerived
};
/// "must be the same", "same content", "may change", "settled anew".
std::string_view on_resume_text(OnResume on_resume);

/// The numbers that a key may have; none of them is infinite.
struct Range {
  double low = 0, high = 0;
  bool above_low = false, below_high = false;
  /// 0 too, which turns the thing off.
  bool or_zero = false;

  /// long double has every int64_t and double as it is.
  bool holds(long double value) const {
    if (or_zero && value == 0) return true;
    return (above_low ? value > low : value >= low) && (below_high ? value < high : value <= high);
  }
  /// "must be at least 1 and at most 10".
  std::string text() const;
};
/// Both ends count.
constexpr Range between(double low, double high) { return {.low = low, .high = high}; }
constexpr Range above(double low, double high) {
  return {.low = low, .high = high, .above_low = true};
}
constexpr Range below(double low, double high) {
  return {.low = low, .high = high, .below_high = true};
}
constexpr Range at_least(double low) {
  return {.low = low, .high = std::numeric_limits<double>::infinity(), .below_high = true};
}
constexpr Range or_zero(Range range) {
  range.or_zero = true;
  return range;
}

/// The words that a key may be.
struct OneOf {
  std::array<std::string_view, 6> words = {};

  template <class... Words>
  constexpr explicit OneOf(Words... each) : words{each...} {}
  bool holds(std::string_view value) const;
  std::string text() const;
  /// text(), and which of them may have been meant.
  std::string text_of(std::string_view value) const;

 private:
  std::vector<std::string> known() const;
};

/// Any text, list, truth value or group of fields.
struct Anything {
  static constexpr bool holds(const auto&) { return true; }
  static std::string text() { return {}; }
};

namespace detail {

template <class T>
struct Plain {
  using type = T;
};
template <class T>
struct Plain<std::optional<T>> {
  using type = T;
};
/// int64_t of int64_t and of optional<int64_t>.
template <class T>
using PlainOf = typename Plain<T>::type;
template <class T>
constexpr bool kIsNumber =
    std::is_same_v<PlainOf<T>, int64_t> || std::is_same_v<PlainOf<T>, double>;
template <class T>
concept Number = kIsNumber<T>;

}  // namespace detail

template <class Owner, class T, class Allowed>
struct Field {
  std::string_view name;
  T Owner::*member;
  OnResume on_resume;
  Allowed allowed;
  std::string_view help;
};

/// A number says its range.
template <class Owner, detail::Number T>
constexpr Field<Owner, T, Range> field(std::string_view name, T Owner::*member, OnResume on_resume,
                                       Range range, std::string_view help = "") {
  return {name, member, on_resume, range, help};
}
/// A text that is one of some words.
template <class Owner>
constexpr Field<Owner, std::string, OneOf> field(std::string_view name, std::string Owner::*member,
                                                 OnResume on_resume, OneOf words,
                                                 std::string_view help = "") {
  return {name, member, on_resume, words, help};
}
template <class Owner, class T>
requires(!detail::Number<T>) constexpr Field<Owner, T, Anything> field(std::string_view name,
                                                                       T Owner::*member,
                                                                       OnResume on_resume,
                                                                       std::string_view help = "") {
  return {name, member, on_resume, {}, help};
}
/// A group: its members have fields of their own.
template <class Owner, class T>
requires requires { T::fields(); }
constexpr Field<Owner, T, Anything> field(std::string_view name, T Owner::*member) {
  return {name, member, OnResume::kSame, {}, ""};
}

template <class T>
concept HasFields = requires {
  T::fields();
};

namespace detail {

struct AnyMember {
  template <class T>
  operator T() const;
};

// The number of members of an aggregate: how many initialisers it takes.
template <class T, class... Args>
constexpr size_t member_count() {
  if constexpr (requires { T{Args{}..., AnyMember{}}; }) {
    return member_count<T, Args..., AnyMember>();
  } else {
    return sizeof...(Args);
  }
}

}  // namespace detail

/// What the field of a number allows: for the same number where another file says it.
template <class Owner, detail::Number T>
constexpr Range range_of(T Owner::*member) {
  Range range;
  const auto look = [&](const auto& each) {
    using Each = std::decay_t<decltype(each)>;
    if constexpr (std::is_same_v<decltype(Each::member), T Owner::*> &&
                  std::is_same_v<decltype(Each::allowed), Range>) {
      if (each.member == member) range = each.allowed;
    }
  };
  std::apply([&](const auto&... each) { (look(each), ...); }, Owner::fields());
  return range;
}

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

/// Parsing of one value from the text of an override. `key` names it in errors, `allowed` (Range's
/// text) says what it may be.
void parse_value(std::string_view key, std::string_view text, bool& value);
void parse_value(std::string_view key, std::string_view text, int64_t& value,
                 std::string_view allowed);
void parse_value(std::string_view key, std::string_view text, double& value,
                 std::string_view allowed);
void parse_value(std::string_view key, std::string_view text, std::string& value);
/// `[a, b]` or `a,b`.
void parse_value(std::string_view key, std::string_view text, std::vector<std::string>& value);
template <class T>
void parse_value(std::string_view key, std::string_view text, std::optional<T>& value,
                 std::string_view allowed) {
  if (text == "null" || text == "none" || text.empty()) {
    value.reset();
  } else {
    parse_value(key, text, value.emplace(), allowed);
  }
}
/// Of a text that nobody has set there is none; one that is set may be empty.
void parse_value(std::string_view key, std::string_view text, std::optional<std::string>& value);

/// Every settable path, in order: for printing, YAML, resuming and "did you mean".
struct FieldText {
  /// kFlow: its value is YAML as it stands.
  enum class Kind { kScalar, kList, kNull, kFlow };
  std::string path, value, help;
  Kind kind = Kind::kScalar;
  OnResume on_resume = OnResume::kSame;
  /// Of numbers and words: what they may be.
  std::string allowed = {};
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

template <class T>
FieldText::Kind kind_of(const T&) {
  return FieldText::Kind::kScalar;
}
template <class T>
FieldText::Kind kind_of(const std::vector<T>&) {
  return FieldText::Kind::kList;
}
template <class T>
FieldText::Kind kind_of(const std::optional<T>& value) {
  return value ? FieldText::Kind::kScalar : FieldText::Kind::kNull;
}

template <HasFields T>
void list_fields(const T& config, std::vector<FieldText>& out, const std::string& prefix = "") {
  for_each_field(config, [&](const auto& each, const auto& value) {
    const std::string path = prefix + std::string(each.name);
    if constexpr (HasFields<std::decay_t<decltype(value)>>) {
      list_fields(value, out, path + ".");
    } else {
      out.push_back({path, format_value(value), std::string(each.help), kind_of(value),
                     each.on_resume, each.allowed.text()});
    }
  });
}

template <HasFields T>
std::vector<FieldText> list_fields(const T& config) {
  std::vector<FieldText> out;
  list_fields(config, out);
  return out;
}

/// Throws UserError `PATH=VALUE: must be ...`.
template <class Allowed, class T>
void check_value(std::string_view path, const Allowed& allowed, const T& value) {
  if (allowed.holds(value)) return;
  if constexpr (std::is_same_v<Allowed, OneOf>) {
    user_error("{}={}: {}", path, format_value(value), allowed.text_of(value));
  } else {
    user_error("{}={}: {}", path, format_value(value), allowed.text());
  }
}
template <class Allowed, class T>
void check_value(std::string_view path, const Allowed& allowed, const std::optional<T>& value) {
  if (value) check_value(path, allowed, *value);
}

/// Throws UserError for the first value that its field does not allow: of a config that code
/// filled.
template <HasFields T>
void check_values(const T& config, const std::string& prefix = "") {
  for_each_field(config, [&](const auto& each, const auto& value) {
    const std::string path = prefix + std::string(each.name);
    if constexpr (HasFields<std::decay_t<decltype(value)>>) {
      check_values(value, path + ".");
    } else {
      check_value(path, each.allowed, value);
    }
  });
}

namespace detail {

/// `text` null: what `defaults` has.
template <HasFields T>
bool set_at(T& config, const T& defaults, std::string_view path, std::string_view key,
            const std::string_view* text) {
  const size_t dot = path.find('.');
  const std::string_view head = path.substr(0, dot);
  bool found = false;
  for_each_field(config, [&](const auto& each, auto& value) {
    if (each.name != head) return;
    using Value = std::decay_t<decltype(value)>;
    if constexpr (HasFields<Value>) {
      if (dot != std::string_view::npos) {
        found = set_at(value, defaults.*(each.member), path.substr(dot + 1), key, text);
      } else if (text == nullptr) {
        value = defaults.*(each.member);
        found = true;
      }
    } else if (dot == std::string_view::npos) {
      found = true;
      if (text == nullptr) {
        value = defaults.*(each.member);
        return;
      }
      if constexpr (Number<Value>) {
        parse_value(key, *text, value, each.allowed.text());
      } else {
        parse_value(key, *text, value);
      }
      check_value(key, each.allowed, value);
    }
  });
  return found;
}

}  // namespace detail

/// Throws UserError for a key that is none, with the one that may have been meant.
[[noreturn]] void unknown_key(std::string_view key, const std::vector<FieldText>& known);

/// `key=value` of a command line or a file.
struct Assignment {
  std::string key;
  /// Nothing: null, which is the default.
  std::optional<std::string> value;
};

/// Sets a key (a dotted path, or an older name that T::current_name knows) from text; null sets it,
/// or a whole group, to what `defaults` has. Throws UserError: an unknown key names the nearest, a
/// bad value its type or range.
template <HasFields T>
void set_field(T& config, const Assignment& given, const T& defaults = {}) {
  std::string_view key = given.key;
  if constexpr (requires { T::current_name(key); }) key = T::current_name(key);
  const std::string_view text = given.value ? std::string_view(*given.value) : std::string_view();
  if (!detail::set_at(config, defaults, key, key, given.value ? &text : nullptr)) {
    unknown_key(key, list_fields(config));
  }
}

/// `key=value`; a bare `null` is none. Throws UserError where there is no '=', and for Hydra's
/// `~key`.
Assignment parse_override(std::string_view assignment);
template <HasFields T>
void apply_override(T& config, std::string_view assignment, const T& defaults = {}) {
  set_field(config, parse_override(assignment), defaults);
}

/// Flattens a YAML mapping to dotted paths and texts; an empty mapping is null. Throws UserError on
/// anything but mappings, scalars and lists, and on a path that is there twice.
std::vector<Assignment> flatten_yaml(const YAML::Node& node, std::string_view what);
YAML::Node load_yaml(const std::string& text, std::string_view what);
/// Quoted where it would be read as something else.
void emit_text(YAML::Emitter& out, const std::string& text);

template <HasFields T>
void apply_yaml(T& config, const std::string& text, std::string_view what, const T& defaults = {}) {
  for (const Assignment& each : flatten_yaml(load_yaml(text, what), what)) {
    set_field(config, each, defaults);
  }
}

/// The whole config as YAML that apply_yaml reads back to the same.
std::string yaml_of(const std::vector<FieldText>& fields);
template <HasFields T>
std::string to_yaml(const T& config) {
  return yaml_of(list_fields(config));
}

}  // namespace trestle
