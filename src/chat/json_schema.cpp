#include "chat/json_schema.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "chat/python_regex.h"

namespace trestle {

namespace {

/// What a keyword's value must be.
enum class Kind {
  kSchema,
  kSchemas,          // at least one
  kSchemaOrSchemas,  // "items"
  kNamedSchemas,
  kPatterns,      // schemas by regular expressions
  kDependencies,  // by name, a schema or other names
  kNames,
  kTypes,
  kText,
  kPattern,
  kFlag,
  kNumber,
  kPositive,
  kCount,
  kList,
};

constexpr std::pair<std::string_view, Kind> kKeywords[] = {
    {"$id", Kind::kText},
    {"$schema", Kind::kText},
    {"$ref", Kind::kText},
    {"$comment", Kind::kText},
    {"title", Kind::kText},
    {"description", Kind::kText},
    {"readOnly", Kind::kFlag},
    {"examples", Kind::kList},
    {"multipleOf", Kind::kPositive},
    {"maximum", Kind::kNumber},
    {"exclusiveMaximum", Kind::kNumber},
    {"minimum", Kind::kNumber},
    {"exclusiveMinimum", Kind::kNumber},
    {"maxLength", Kind::kCount},
    {"minLength", Kind::kCount},
    {"pattern", Kind::kPattern},
    {"additionalItems", Kind::kSchema},
    {"items", Kind::kSchemaOrSchemas},
    {"maxItems", Kind::kCount},
    {"minItems", Kind::kCount},
    {"uniqueItems", Kind::kFlag},
    {"contains", Kind::kSchema},
    {"maxProperties", Kind::kCount},
    {"minProperties", Kind::kCount},
    {"required", Kind::kNames},
    {"additionalProperties", Kind::kSchema},
    {"definitions", Kind::kNamedSchemas},
    {"properties", Kind::kNamedSchemas},
    {"patternProperties", Kind::kPatterns},
    {"dependencies", Kind::kDependencies},
    {"propertyNames", Kind::kSchema},
    {"enum", Kind::kList},
    {"type", Kind::kTypes},
    {"format", Kind::kText},
    {"contentMediaType", Kind::kText},
    {"contentEncoding", Kind::kText},
    {"if", Kind::kSchema},
    {"then", Kind::kSchema},
    {"else", Kind::kSchema},
    {"allOf", Kind::kSchemas},
    {"anyOf", Kind::kSchemas},
    {"oneOf", Kind::kSchemas},
    {"not", Kind::kSchema},
};

[[noreturn]] void refuse(const Json& value, const std::string& place, const char* wanted) {
  user_error("{} is {}, but it must be {}", place,
             value.dump(-1, ' ', false, Json::error_handler_t::replace), wanted);
}

void require(bool holds, const Json& value, const std::string& place, const char* wanted) {
  if (!holds) refuse(value, place, wanted);
}

void check_schema(const Json& schema, const std::string& place);

void check_each(const Json& list, const std::string& place) {
  require(list.is_array() && !list.empty(), list, place, "a list of schemas, one at least");
  for (size_t i = 0; i < list.size(); ++i) check_schema(list[i], fmt::format("{}[{}]", place, i));
}

bool are_different_strings(const Json& list) {
  std::set<std::string_view> seen;
  return list.is_array() && std::ranges::all_of(list, [&](const Json& each) {
           return each.is_string() && seen.insert(each.get_ref<const std::string&>()).second;
         });
}

void check_names(const Json& names, const std::string& place) {
  require(are_different_strings(names), names, place, "a list of names, each once");
}

void check_named(const Json& schemas, const std::string& place, Kind kind) {
  require(schemas.is_object(), schemas, place, "an object");
  for (const auto& [name, schema] : schemas.items()) {
    const std::string where = fmt::format("{}.{}", place, name);
    if (kind == Kind::kPatterns) require_python_regex(name, where);
    if (kind == Kind::kDependencies && schema.is_array()) {
      check_names(schema, where);
    } else {
      check_schema(schema, where);
    }
  }
}

bool are_types(const Json& value) {
  constexpr std::string_view kTypes[] = {"array",  "boolean", "integer", "null",
                                         "number", "object",  "string"};
  const auto is_type = [&](const Json& each) {
    return each.is_string() &&
           std::ranges::find(kTypes, each.get_ref<const std::string&>()) != std::end(kTypes);
  };
  if (!value.is_array()) return is_type(value);
  return !value.empty() && are_different_strings(value) && std::ranges::all_of(value, is_type);
}

// 3.0 counts as whole.
bool is_count(const Json& value) {
  if (!value.is_number()) return false;
  const auto number = value.get<double>();
  return number >= 0 && number == std::floor(number);
}

void check_keyword(const Json& value, const std::string& place, Kind kind) {
  switch (kind) {
    case Kind::kSchema:
      return check_schema(value, place);
    case Kind::kSchemas:
      return check_each(value, place);
    case Kind::kSchemaOrSchemas:
      return value.is_array() ? check_each(value, place) : check_schema(value, place);
    case Kind::kNamedSchemas:
    case Kind::kPatterns:
    case Kind::kDependencies:
      return check_named(value, place, kind);
    case Kind::kNames:
      return check_names(value, place);
    case Kind::kTypes:
      return require(are_types(value), value, place,
                     "array, boolean, integer, null, number, object, string or a list of them");
    case Kind::kText:
      return require(value.is_string(), value, place, "a string");
    case Kind::kPattern:
      require(value.is_string(), value, place, "a string");
      return require_python_regex(value.get<std::string>(), place);
    case Kind::kFlag:
      return require(value.is_boolean(), value, place, "true or false");
    case Kind::kNumber:
      return require(value.is_number(), value, place, "a number");
    case Kind::kPositive:
      return require(value.is_number() && value.get<double>() > 0, value, place,
                     "a number above 0");
    case Kind::kCount:
      return require(is_count(value), value, place, "a whole number, 0 or more");
    case Kind::kList:
      return require(value.is_array(), value, place, "a list");
  }
}

void check_schema(const Json& schema, const std::string& place) {
  require(schema.is_object() || schema.is_boolean(), schema, place,
          "a schema: an object, true or false");
  if (!schema.is_object()) return;
  for (const auto& [keyword, kind] : kKeywords) {
    const auto found = schema.find(keyword);
    if (found != schema.end()) check_keyword(*found, fmt::format("{}.{}", place, keyword), kind);
  }
}

}  // namespace

void require_json_schema(const Json& schema, const std::string& where) {
  check_schema(schema, where);
}

}  // namespace trestle
