// Layout v15 and what a conversation sets of the model, against mistral-common; JSON schemas
// against jsonschema and patterns against Python's re.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "chat/json_schema.h"
#include "chat/python_regex.h"
#include "chat/settings.h"
#include "chat/testing.h"
#include "errors.h"
#include "temp_dir.h"
#include "tokenizer/chat_template.h"

namespace trestle {
namespace {

using namespace testing;

constexpr const char* kEffort =
    R"({"type": "enum", "accepts_none": true, "default": "none", "values": ["none", "high"]})";
constexpr const char* kSchema =
    R"({"type": "json_schema", "accepts_none": false, "default": null})";

// The small vocabulary as a tekken.json of v15; `builder` null: it has none.
Json vocabulary_v15(const Json& builder) {
  Json json = read_json(kTokenizerGolden / "tekken.json");
  json["config"]["version"] = "v15";
  json["special_tokens"][36]["token_str"] = "[MODEL_SETTINGS]";
  json["special_tokens"][37]["token_str"] = "[/MODEL_SETTINGS]";
  if (!builder.is_null()) json["model_settings_builder"] = builder;
  return json;
}

Tokenizer open(const Json& vocabulary) {
  const TempDir directory;
  write_json(directory / "tekken.json", vocabulary);
  return Tokenizer::open(directory / "tekken.json");
}

Tokenizer open_v15(const std::string& efforts, const std::string& schema) {
  return open(vocabulary_v15({{"reasoning_effort", parse_json(efforts, "efforts")},
                              {"json_schema", parse_json(schema, "schema")}}));
}

std::string rendered(const Tokenizer& tokenizer, const std::string& text) {
  return render(tokenizer,
                ChatEncoder(tokenizer).encode(parse_conversation(parse_json(text, "row"), "row")));
}

std::string asking(const std::string& keys) {
  return R"({"messages": [{"role": "user", "content": "a"}], )" + keys + "}";
}

TEST(Settings, IdsAndMasksOfV15AreMistralCommons) {
  const auto chats = golden_lines("conversations_v15.jsonl");
  std::vector<Tokenizer> tokenizers;
  std::istringstream builders(read_text(kTokenizerGolden / "settings_builders.jsonl"));
  for (std::string line; std::getline(builders, line);) {
    tokenizers.push_back(open(vocabulary_v15(parse_json(line, "builder"))));
  }
  int refused = 0;
  std::set<std::string> encoded;  // the conversations: some stand there for two builders
  for (const Json& row : golden_lines("chats_v15.jsonl")) {
    const size_t index = row["case"];
    const Tokenizer& tokenizer = tokenizers.at(row["builder"]);
    const ChatEncoder encoder(tokenizer);
    for (const std::string name : row["endings"]) {
      SCOPED_TRACE(fmt::format("case {} ending {}: {}", index, name, chats[index].dump()));
      if (expect_golden_chat(encoder, tokenizer, chats[index], row, name)) {
        encoded.insert(chats[index].dump());
      } else {
        ++refused;
      }
    }
  }
  EXPECT_GE(encoded.size(), 200u);
  EXPECT_GT(refused, 300);
}

TEST(Settings, WhereTheyStand) {
  const Tokenizer both = open_v15(kEffort, kSchema);
  EXPECT_EQ(rendered(both, R"({"messages": [{"role": "system", "content": "s"},
      {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
      {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]}],
      "tools": [{"type": "function", "function": {"name": "f"}}], "reasoning_effort": "high",
      "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true,
        "schema": {"type": "object", "properties": {"z": {"default": null}, "a": {}}}}}})"),
            "<s>[SYSTEM_PROMPT]s[/SYSTEM_PROMPT][AVAILABLE_TOOLS][{\"type\": \"function\", "
            "\"function\": {\"name\": \"f\", \"description\": \"\", \"parameters\": {}}}]"
            "[/AVAILABLE_TOOLS][MODEL_SETTINGS]{\"json_schema\": {\"type\": \"object\", "
            "\"properties\": {\"z\": {\"default\": null}, \"a\": {}}}, \"reasoning_effort\": "
            "\"high\"}[/MODEL_SETTINGS][INST]a[/INST]b</s>[INST]cd[/INST]");
  EXPECT_EQ(rendered(both, asking(R"("response_format": {"type": "text"})")),
            "<s>[MODEL_SETTINGS]{\"reasoning_effort\": \"none\"}[/MODEL_SETTINGS][INST]a[/INST]");
  // As a cell of a table has it.
  EXPECT_EQ(
      rendered(
          open_v15("null", kSchema),
          asking(R"("reasoning_effort": null, "response_format": "{\"type\": \"json_object\"}")")),
      "<s>[MODEL_SETTINGS]{\"json_schema\": {\"anyOf\": [{\"type\": \"object\"}, {\"type\": "
      "\"array\"}]}}[/MODEL_SETTINGS][INST]a[/INST]");
  EXPECT_EQ(rendered(open_v15("null", kSchema), asking(R"("tools": [])")), "<s>[INST]a[/INST]");
  EXPECT_EQ(rendered(open_v15("null", "null"), asking(R"("tools": [])")), "<s>[INST]a[/INST]");
}

// The flag's, where a conversation has none.
TEST(Settings, EffortOfTheFlag) {
  const Tokenizer tokenizer = open_v15(kEffort, kSchema);
  Conversation asks, silent;
  asks.settings.reasoning_effort = "none";
  for (Conversation* each : {&asks, &silent}) add_reasoning_effort(*each, "high");
  EXPECT_EQ(asks.settings.reasoning_effort, "none");
  EXPECT_EQ(silent.settings.reasoning_effort, "high");
  EXPECT_NO_THROW(require_effort("high", tokenizer, 15, "--reasoning-effort"));
  EXPECT_REFUSED(require_effort("low", tokenizer, 15, "--reasoning-effort"), "takes none, high");
  EXPECT_REFUSED(require_effort("", tokenizer, 15, "--reasoning-effort"),
                 "--reasoning-effort \"\": the tokenizer");
}

TEST(Settings, RefusedWhereTheyHaveNoPlace) {
  const Tokenizer old = Tokenizer::open(kTokenizerGolden / "tekken.json");
  const Tokenizer efforts = open_v15(kEffort, "null"), schemas = open_v15("null", kSchema);
  const auto refused = [&](const Tokenizer& tokenizer, const char* keys, const char* part) {
    SCOPED_TRACE(keys);
    EXPECT_REFUSED(rendered(tokenizer, asking(keys)), part);
  };
  refused(old, R"("reasoning_effort": "high")", "reasoning_effort high: the tokenizer ");
  refused(old, R"("reasoning_effort": "high")", "is of layout v13, which has no settings");
  refused(old, R"("response_format": {"type": "json_object"})", "is of layout v13");
  EXPECT_EQ(rendered(old, asking(R"("response_format": {"type": "text"})")), "<s>[INST]a[/INST]");
  refused(efforts, R"("reasoning_effort": "max")", "takes none, high");
  refused(efforts, R"("response_format": {"type": "json_object"})", "lets no conversation set it");
  refused(schemas, R"("reasoning_effort": "none")", "lets no conversation set it");
  const Tokenizer without = open(vocabulary_v15(nullptr));
  refused(without, R"("tools": [])", "neither a \"model_settings_builder\" nor");
}

TEST(Settings, ResponseFormatsThatAreNone) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "json"})", "response_format: the type \"json\" is unknown; there are text"},
      {R"({"type": "text", "strict": true})", "nobody reads \"strict\""},
      {R"({"type": "text", "json_schema": {"name": "x", "schema": {}}})", "this one is \"text\""},
      {R"({"type": "json_schema"})", "needs \"json_schema\""},
      {R"({"type": "json_schema", "json_schema": {"name": "x"}})", "\"schema\" must be an object"},
      {R"({"type": "json_schema", "json_schema": {"schema": {}}})", "\"name\" must be a string"},
      {R"({"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": 1}})",
       "\"strict\" must be true or false"},
      {R"({"type": "json_schema", "json_schema": {"name": "x", "schema": {"items": [{"type": "any"}]}}})",
       "json_schema: schema.items[0].type is \"any\", but it must be array, boolean"},
      {R"("{")", "row: response_format: not valid JSON"},
      {R"([1])", "it must be {\"type\": ...}"},
  };
  for (const auto& [format, part] : cases) {
    SCOPED_TRACE(format);
    const Json row = {{"response_format", parse_json(format, "format")}};
    EXPECT_REFUSED(read_settings(row, "row"), part);
  }
  const Json row = {{"reasoning_effort", 3}};
  EXPECT_REFUSED(read_settings(row, "row"), "row: \"reasoning_effort\" must be a string");
}

TEST(JsonSchema, AsJsonschemaChecksIt) {
  int fine = 0, wrong = 0;
  for (const Json& row : golden_lines("schemas.jsonl")) {
    SCOPED_TRACE(row.dump());
    const auto check = [&] { require_json_schema(row[0], "schema"); };
    if (row[1] == 1) {
      EXPECT_NO_THROW(check());
      ++fine;
    } else {
      EXPECT_REFUSED(check(), "schema");
      ++wrong;
    }
  }
  EXPECT_GT(fine, 400);
  EXPECT_GT(wrong, 400);
}

TEST(PythonRegex, AsPythonCompilesIt) {
  int fine = 0, wrong = 0;
  for (const Json& row : golden_lines("patterns.jsonl")) {
    SCOPED_TRACE(row.dump());
    const auto check = [&] { require_python_regex(row[0].get<std::string>(), "schema.pattern"); };
    if (row[1] == 1) {
      EXPECT_NO_THROW(check());
      ++fine;
    } else {
      EXPECT_REFUSED(check(), "schema.pattern: Python's re does not compile");
      ++wrong;
    }
  }
  EXPECT_GT(fine, 250);
  EXPECT_GT(wrong, 250);
  std::string deep(1000, '(');
  EXPECT_REFUSED(require_python_regex(deep, "deep"), "nest deeper than 100");
}

TEST(ChatTemplate, SettingsOfV15) {
  constexpr const char* kBoth = R"({%- if response_format is defined %}[ARGS]
    {%- set model_settings_parts = model_settings_parts + ['"json_schema": ' ~ (json_schema|tojson)] %}
{%- if reasoning_effort is not defined or reasoning_effort is none %}
    {%- set reasoning_effort = 'low' %}
{%- endif %}
{%- if reasoning_effort not in ['none', "low"] %}[MODEL_SETTINGS])";
  const auto both = template_settings(kBoth);
  ASSERT_TRUE(both);
  EXPECT_EQ(both->efforts, (std::vector<std::string>{"none", "low"}));
  EXPECT_EQ(both->default_effort, "low");
  EXPECT_TRUE(both->json_schema);
  const auto schema = template_settings(R"([MODEL_SETTINGS] '"json_schema": ')");
  ASSERT_TRUE(schema);
  EXPECT_TRUE(schema->efforts.empty());
  for (const char* none :
       {R"(['"json_schema": '] [ARGS])", "[MODEL_SETTINGS]",
        "[MODEL_SETTINGS] reasoning_effort not in ['a']",
        "[MODEL_SETTINGS] set reasoning_effort = 'b' reasoning_effort not in ['a']",
        "[MODEL_SETTINGS] set reasoning_effort = 'a' reasoning_effort not in ['a'"}) {
    EXPECT_FALSE(template_settings(none)) << none;
  }
  const TempDir directory;
  write_text(directory / "tokenizer.json", read_text(kTokenizerGolden / "converted.json"));
  write_text(directory / "chat_template.jinja", kBoth);
  const Tokenizer tokenizer = Tokenizer::open(directory.path());
  EXPECT_EQ(tokenizer.version(), 15);
  EXPECT_EQ(tokenizer.settings()->default_effort, "low");
}

TEST(Settings, BuildersThatAreNone) {
  const auto effort = [](const char* changes) {
    Json json = parse_json(kEffort, "effort");
    json.merge_patch(parse_json(changes, "changes"));
    return Json{{"reasoning_effort", json}};
  };
  const std::pair<Json, const char*> cases[] = {
      {Json::array(), "\"model_settings_builder\" is an array"},
      {{{"temperature", nullptr}}, "nobody reads \"temperature\""},
      {{{"json_schema", true}}, "\"json_schema\" is a boolean"},
      {{{"json_schema", {{"default", 1}}}}, "\"default\" is 1, but it must be null"},
      {{{"json_schema", {{"accepts_none", true}}}}, "\"accepts_none\" is true"},
      {effort(R"({"values": ["none", "some"]})"),
       "\"values\" has \"some\", but there are none, min"},
      {effort(R"({"values": ["none", 1]})"), "\"values\" has 1"},
      {effort(R"({"values": ["none", "none"]})"), "\"values\" has \"none\" twice"},
      {effort(R"({"values": []})"), "\"default\" is \"none\", but \"values\" has none"},
      {effort(R"({"default": "low"})"), "\"default\" is \"low\", but \"values\" has none, high"},
      {effort(R"({"default": null})"), "\"default\" is missing"},
      {effort(R"({"type": "text"})"), "\"type\" is \"text\", but it must be \"enum\""},
      {effort(R"({"more": 1})"), "nobody reads \"more\""},
  };
  for (const auto& [builder, part] : cases) {
    SCOPED_TRACE(builder.dump());
    EXPECT_REFUSED(open(vocabulary_v15(builder)), part);
  }
  Json old = vocabulary_v15(Json::object());
  old["config"]["version"] = "v13";
  EXPECT_REFUSED(open(old), "for layouts from v15 on, but the \"version\" is v13");
}

}  // namespace
}  // namespace trestle
