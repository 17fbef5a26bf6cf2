#include "chat/settings.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <optional>

#include "base/error.h"
#include "base/suggestion.h"
#include "chat/canonical.h"
#include "chat/json_schema.h"

namespace trestle {

namespace {

// The value of `key`, or nullptr if it is absent or null.
const Json* find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

void require_keys(const Json& object, std::initializer_list<std::string_view> known,
                  const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::find(known, key) == known.end()) {
      user_error("{}: nobody reads \"{}\"; the keys here are {}", where, key,
                 fmt::join(known, ", "));
    }
  }
}

// Only the schema reaches the model; the name, and whether a server shall hold the answer to the
// schema, are checked as mistral-common does.
Json schema_of(const Json& format, const std::string& where) {
  const Json* named = find(format, "json_schema");
  const std::string place = where + ": json_schema";
  if (named == nullptr || !named->is_object()) {
    user_error("{}: type \"json_schema\" needs \"json_schema\": {{\"name\", \"schema\"}}", where);
  }
  require_keys(*named, {"name", "description", "schema", "strict"}, place);
  const Json* name = find(*named, "name");
  if (name == nullptr || !name->is_string()) user_error("{}: \"name\" must be a string", place);
  const Json* description = find(*named, "description");
  if (description != nullptr && !description->is_string()) {
    user_error("{}: \"description\" must be a string", place);
  }
  const Json* strict = find(*named, "strict");
  if (strict != nullptr && !strict->is_boolean()) {
    user_error("{}: \"strict\" must be true or false", place);
  }
  const Json* schema = find(*named, "schema");
  if (schema == nullptr || !schema->is_object()) {
    user_error("{}: \"schema\" must be an object", place);
  }
  require_json_schema(*schema, place + ": schema");
  return *schema;
}

Json read_response_format(const Json& given, const std::string& where) {
  const Json format =
      given.is_string() ? parse_json_of_single_keys(given.get<std::string>(), where) : given;
  if (!format.is_object()) user_error("{}: it must be {{\"type\": ...}}", where);
  require_keys(format, {"type", "json_schema"}, where);
  const Json* named = find(format, "type");
  const Json type = named == nullptr ? Json("text") : *named;
  if (type == "json_schema") return schema_of(format, where);
  if (type != "text" && type != "json_object") {
    user_error("{}: the type {} is unknown; there are text, json_object and json_schema", where,
               type.dump());
  }
  if (find(format, "json_schema") != nullptr) {
    user_error("{}: \"json_schema\" is for the type json_schema; this one is {}", where,
               type.dump());
  }
  if (type == "text") return nullptr;
  return {{"anyOf", Json::array({{{"type", "object"}}, {{"type", "array"}}})}};
}

// What a conversation asks for in a layout that has no place for it.
[[noreturn]] void refuse_setting(std::string_view name, std::string_view value,
                                 const Tokenizer& tokenizer, int version) {
  if (version < kSettingsVersion) {
    user_error(
        "{} {}: the tokenizer {} is of layout v{}, which has no settings of the model (v{} "
        "has them); leave it out",
        name, value, tokenizer.file().string(), version, kSettingsVersion);
  }
  user_error("{} {}: the tokenizer {} lets no conversation set it; leave it out", name, value,
             tokenizer.file().string());
}

}  // namespace

ModelSettings read_settings(const Json& row, const std::string& what) {
  ModelSettings settings;
  if (const Json* effort = find(row, "reasoning_effort")) {
    if (!effort->is_string()) user_error("{}: \"reasoning_effort\" must be a string", what);
    settings.reasoning_effort = effort->get<std::string>();
  }
  if (const Json* format = find(row, "response_format")) {
    settings.json_schema = read_response_format(*format, what + ": response_format");
  }
  return settings;
}

void require_effort(std::string_view effort, const Tokenizer& tokenizer, int version,
                    std::string_view name) {
  const auto& builder = tokenizer.settings();
  if (version < kSettingsVersion || (builder && builder->efforts.empty())) {
    refuse_setting(name, effort, tokenizer, version);
  }
  if (builder && std::ranges::find(builder->efforts, effort) == builder->efforts.end()) {
    user_error("{} {}: the tokenizer {} takes {}{}", name, effort.empty() ? "\"\"" : effort,
               tokenizer.file().string(), fmt::join(builder->efforts, ", "),
               or_meant(effort, builder->efforts));
  }
}

void add_reasoning_effort(Conversation& conversation, const std::optional<std::string>& effort) {
  std::optional<std::string>& own = conversation.settings.reasoning_effort;
  if (!own) own = effort;
}

std::string settings_json(const ModelSettings& settings, const Tokenizer& tokenizer, int version) {
  const std::optional<std::string>& effort = settings.reasoning_effort;
  if (effort) require_effort(*effort, tokenizer, version, "reasoning_effort");
  const bool has_schema = !settings.json_schema.is_null();
  if (has_schema && version < kSettingsVersion) {
    refuse_setting("response_format", "with a schema", tokenizer, version);
  }
  if (version < kSettingsVersion) return "";
  const auto& builder = tokenizer.settings();
  if (!builder) {
    user_error(
        "{}: it is of layout v{}, but neither a \"model_settings_builder\" nor the chat "
        "template says what conversations may set",
        tokenizer.file().string(), version);
  }
  if (has_schema && !builder->json_schema) {
    refuse_setting("response_format", "with a schema", tokenizer, version);
  }
  // The members stand in the order of their names, those of a schema in their own.
  std::string members;
  if (has_schema) {
    const std::string schema =
        settings.json_schema.dump(-1, ' ', false, Json::error_handler_t::replace);
    members = R"("json_schema": )" + *python_json(schema);
  }
  if (!builder->efforts.empty()) {
    if (has_schema) members += ", ";
    members +=
        R"("reasoning_effort": )" + python_json_string(effort.value_or(builder->default_effort));
  }
  return members.empty() ? "" : "{" + members + "}";
}

}  // namespace trestle
