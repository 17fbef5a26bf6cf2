// Conversations against mistral-common: ids, and the loss mask from the turns that it encoded.
#include <gtest/gtest.h>

#include "chat/canonical.h"
#include "chat/chat.h"
#include "chat/json.h"
#include "chat/testing.h"
#include "errors.h"
#include "temp_dir.h"
#include "tokenizer/chat_template.h"

namespace trestle {
namespace {

using namespace testing;

Conversation conversation_of(const std::string& text) {
  Conversation conversation = parse_conversation(parse_json(text, "test"), "test");
  set_small_grids(conversation);
  return conversation;
}

Tokenizer small_tokenizer(bool thinking = true) {
  if (thinking) return Tokenizer::open(kTokenizerGolden / "tekken.json");
  Json json = read_json(kTokenizerGolden / "tekken.json");
  for (const size_t id : {34, 35})
    json["special_tokens"][id]["token_str"] = fmt::format("<SPECIAL_{}>", id);
  const TempDir directory;
  write_json(directory / "tekken.json", json);
  return Tokenizer::open(directory / "tekken.json");
}

// Whether a call or a result has no id; chat/test_rows.cpp has what becomes of them.
bool lacks_only_ids(const Json& conversation) {
  const auto is_none = [](const Json& id) { return id.is_null() || id == "null"; };
  for (const Json& message : conversation["messages"]) {
    for (const Json& call : message.value("tool_calls", Json::array())) {
      if (is_none(call.value("id", Json()))) return true;
    }
    if (message["role"] == "tool" && is_none(message.value("tool_call_id", Json()))) return true;
  }
  return false;
}

// users' pain point 11: loss on the prompt.
TEST(Chat, IdsAndMasksAreMistralCommons) {
  const auto conversations = golden_lines("conversations.jsonl");
  const Tokenizer with = small_tokenizer(), without = small_tokenizer(false);
  int encoded = 0, refused = 0;
  for (const Json& row : golden_lines("chats.jsonl")) {
    const size_t index = row["case"];
    const ChatEncoder encoder(row["thinking"] ? with : without, row["version"].get<int>());
    for (const std::string name : row["endings"]) {
      SCOPED_TRACE(fmt::format("v{} case {} ending {}: {}", row["version"].get<int>(), index, name,
                               conversations[index].dump()));
      // Where the layout writes no ids mistral-common asks for them all the same, and we do not.
      if (row["version"] == 13 && row.contains("error") && name != "prompt" &&
          lacks_only_ids(conversations[index])) {
        continue;
      }
      ++(expect_golden_chat(encoder, with, conversations[index], row, name) ? encoded : refused);
    }
  }
  EXPECT_GT(encoded, 250);
  EXPECT_GT(refused, 250);
}

// users' pain point 11: loss on the prompt.
TEST(Chat, MaskHoldsWhatTheModelEmits) {
  const Tokenizer tokenizer = small_tokenizer();
  const ChatEncoder encoder(tokenizer);
  const auto masked = [&](const std::string& text) {
    return render(tokenizer, encoder.encode(conversation_of(text)), true);
  };
  EXPECT_EQ(
      masked(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes "},
      {"role": "user", "content": "yes</s>[/INST]"}, {"role": "assistant", "content": "no"}]})"),
      "yes</s>no</s>");
  EXPECT_EQ(
      masked(
          R"({"messages": [{"role": "user", "content": "t"}, {"role": "assistant", "reasoning": "hm",
      "tool_calls": [{"id": "1", "function": {"name": "clock", "arguments": ""}}]},
      {"role": "tool", "content": "12", "tool_call_id": "1"}, {"role": "assistant", "content": "Noon"}]})"),
      "[THINK]hm[/THINK][TOOL_CALLS]clock[ARGS]{}</s>Noon</s>");
  EXPECT_EQ(masked(R"({"messages": [{"role": "user", "content": "t"}]})"), "");
  EXPECT_EQ(masked(R"({"messages": [{"role": "user", "content": "t"},
      {"role": "assistant", "content": "To be", "prefix": true}]})"),
            "To be");
  EXPECT_EQ(
      masked(
          R"({"messages": [{"role": "user", "content": "t"}, {"role": "assistant", "content": "no", "weight": 0},
      {"role": "assistant", "content": "yes", "weight": 1}]})"),
      "yes</s>");
}

// users' pain point 12: an end of turn that is not learnt.
TEST(Chat, LabelsAreTheNextMaskedIds) {
  EncodedChat chat;
  chat.ids = {1, 3, 50, 4, 60, 2};
  chat.mask = {0, 0, 0, 0, 1, 1};
  EXPECT_EQ(next_token_labels(chat), (std::vector<int64_t>{-100, -100, -100, 60, 2, -100}));
  chat = {};
  EXPECT_TRUE(next_token_labels(chat).empty());
}

TEST(Chat, ImagesKeepTheirSpans) {
  const Tokenizer tokenizer = small_tokenizer();
  const EncodedChat chat = ChatEncoder(tokenizer).encode(conversation_of(
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"},
          {"type": "image", "width": 60, "height": 30}]}, {"role": "assistant", "content": "y"},
          {"role": "user", "content": [{"type": "image", "path": "b.png", "width": 28, "height": 28}]}]})"));
  EXPECT_EQ(render(tokenizer, chat),
            "<s>[INST][IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG_END]x[/INST]y</"
            "s>[INST][IMG][IMG_END][/INST]");
  ASSERT_EQ(chat.images.size(), 2u);
  EXPECT_EQ(chat.images[0].begin, 2u);
  EXPECT_EQ(chat.images[0].end, 10u);
  EXPECT_EQ(chat.images[1].ref.source, "b.png");
  EXPECT_EQ(chat.ids[chat.images[1].begin], tokenizer.special("[IMG]"));
  EXPECT_EQ(chat.ids[chat.images[1].end - 1], tokenizer.special("[IMG_END]"));
}

// users' pain point 13: another chat template.
TEST(Chat, ErrorsNameTheMessage) {
  const Tokenizer tokenizer = small_tokenizer();
  const ChatEncoder encoder(tokenizer);
  const auto refused = [&](const std::string& text, const std::string& part,
                           Ending ending = Ending::kAny) {
    EXPECT_REFUSED(encoder.encode(conversation_of(text), ending), part);
  };
  refused(R"({"messages": []})", "at least one");
  refused(R"({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]})",
          "messages[1] (tool)");
  refused(
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]})",
      "messages[1] (assistant): it has neither content nor tool_calls");
  refused(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant",
              "tool_calls": [{"function": {"name": "f"}}]}, {"role": "tool", "content": "b", "name": "g"}]})",
          "messages[2] (tool): \"tool_call_id\" is missing, and no call of g before it is without "
          "a result");
  refused(
      R"({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
              {"role": "tool", "content": "b", "tool_call_id": "a"}, {"role": "assistant", "content": "c"}]})",
      "messages[1] (tool): no result of messages[0]");
  refused(
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})",
      "messages[1] (assistant): nothing to answer", Ending::kPrompt);
  refused(R"({"messages": [{"role": "user", "content": "a"}]})",
          "messages[0] (user): nothing to learn", Ending::kSample);
  refused(R"({"messages": [{"role": "user", "content": "a"}], "tools": [{"description": "f"}]})",
          "tools[0]");
  EXPECT_REFUSED(ChatEncoder(tokenizer, 14), "v14 are not supported; v3, v7, v11, v13, v15 are");
  EXPECT_REFUSED(ChatEncoder(tokenizer, 15), "no special token [MODEL_SETTINGS]");
  // A vocabulary without the markers says which one it lacks.
  const Tokenizer bytes = Tokenizer::open(kBytesCheckpoint);
  EXPECT_EQ(bytes.version(), 13);
  EXPECT_REFUSED(
      ChatEncoder(bytes).encode(conversation_of(
          R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]})")),
      "no special token [SYSTEM_PROMPT]");
}

Conversation parse(const std::string& text) {
  return parse_conversation(parse_json(text, "row"), "row");
}

// "text" and [image sources] of a message.
std::string shape(const Message& message) {
  std::string out;
  for (const Part& part : message.parts) {
    out += part.kind == Part::Kind::kImage ? "[" + part.image.source + "]" : "'" + part.text + "'";
  }
  return out;
}

TEST(ChatJson, ImagesByEveryName) {
  const Conversation c = parse(R"({"messages": [{"role": "user", "content": [
      {"type": "image", "path": "a"}, {"type": "image", "url": "b"}, {"type": "image", "image": "c"},
      {"type": "image_url", "image_url": "d"}, {"type": "image_url", "image_url": {"url": "e", "detail": "low"}},
      {"type": "image", "width": 5, "height": 7}, {"type": "text", "text": ""}, {"type": "text", "text": "t"}]}]})");
  EXPECT_EQ(shape(c.messages[0]), "[a][b][c][d][e][]'t'");
  EXPECT_EQ(c.messages[0].parts[5].image.width, 5);
  EXPECT_EQ(c.messages[0].parts[5].image.height, 7);
}

TEST(ChatJson, ImagesOfTheRow) {
  EXPECT_EQ(shape(parse(R"({"images": ["a", {"path": "b"}], "conversations": [
                {"from": "human", "value": "<image>\nWhat?\n<image>"},
                {"from": "gpt", "value": "<image>"}]})")
                      .messages[0]),
            "[a]'What?'[b]");
  EXPECT_EQ(shape(parse(R"({"image": "a", "messages": [{"role": "user", "content": "What?"}]})")
                      .messages[0]),
            "[a]'What?'");
  EXPECT_EQ(shape(parse(R"({"images": ["a"], "messages": [{"role": "user", "content": [
                {"type": "text", "text": "x"}, {"type": "image"}]}]})")
                      .messages[0]),
            "'x'[a]");
  EXPECT_REFUSED(
      parse(R"({"images": ["a", "b"], "messages": [{"role": "user", "content": "<image>"}]})"),
      "2 images, but the messages have a place for 1");
  EXPECT_REFUSED(
      parse(R"({"images": ["a"], "messages": [{"role": "user", "content": "<image><image>"}]})"),
      "messages[0]: an image that names nothing");
}

TEST(ChatJson, MalformedRowsAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([])", "JSON object"},
      {R"({})", "\"messages\" must be a list; the row has no key"},
      {R"({"text": "a", "label": 3})", "\"messages\" must be a list; the row has text, label"},
      {R"({"role": "user", "content": "a"})", "it is a message alone"},
      {R"({"messages": [3]})", "messages[0]: a message must be"},
      {R"({"messages": [{"content": "x"}]})", "\"from\" must be a string"},
      {R"({"messages": [{"role": "boss", "content": "x"}]})", "\"boss\" is unknown"},
      {R"({"messages": [{"role": "user", "content": null}]})", "\"content\" must be"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "\"content\" must be"},
      {R"({"messages": [{"role": "user", "content": ["x"]}]})", "a part of \"content\""},
      {R"({"messages": [{"role": "user", "content": [{"type": "audio"}]}]})", "\"audio\""},
      {R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})", "names nothing"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image", "width": 4}]}]})", "both"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image", "width": -4, "height": 3}]}]})",
       "\"width\""},
      {R"({"messages": [{"role": "user", "content": [{"type": "image", "width": 1e9, "height": 3}]}]})",
       "\"width\""},
      {R"({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]})", "\"weight\""},
      {R"({"messages": [{"role": "assistant", "content": "x", "prefix": 1}]})", "\"prefix\""},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"name": "f"}]}]})",
       "a tool call must be"},
      {R"({"messages": [{"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"}]})",
       "differ"},
      {R"({"messages": [], "tools": {"a": 1}})", "\"tools\""},
      {R"({"messages": [], "tools": "[{"})", "row: tools: not valid JSON"},
  };
  for (const auto& [text, part] : cases) {
    SCOPED_TRACE(text);
    EXPECT_REFUSED(parse(text), part);
  }
}

// A row with `message` beside a role and a content.
std::string row_with(const char* role, const std::string& keys) {
  return fmt::format(R"({{"messages": [{{"role": "{}", "content": "x", {}}}]}})", role, keys);
}

// A user message of one part.
std::string row_of_part(const std::string& part, const std::string& keys = "") {
  return fmt::format(R"({{"messages": [{{"role": "user", "content": [{}]}}]{}}})", part, keys);
}

TEST(ChatJson, KeysThatNobodyReads) {
  // Refused in our own lines; in data sets what is harmless by nature stays.
  const std::string harmless[] = {
      row_with("user", R"("name": "Ann")"),
      row_with("assistant", R"("timestamp": 3)"),
      row_of_part(R"({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}})"),
      row_of_part(R"({"type": "image_url", "image_url": {"url": "e", "detail": "low"}})"),
      row_of_part(R"({"type": "image", "path": "a", "index": 1})"),
      R"({"messages": [], "id": 7, "licence": "CC"})",
      R"({"messages": [{"role": "assistant", "tool_calls": [{"index": 0, "function": {"name": "f"}}]}]})",
  };
  for (const std::string& text : harmless) {
    SCOPED_TRACE(text);
    EXPECT_NO_THROW(parse(text));
    EXPECT_REFUSED(parse_conversation(parse_json(text, "row"), "row", OtherKeys::kRefused),
                   "nobody reads");
  }
  // Refused everywhere: what they say would be lost.
  const std::pair<std::string, const char*> lost[] = {
      {row_with("assistant", R"("train": 0.5)"), "\"train\" is 0.5"},
      {row_with("assistant", R"("train": true, "weight": 0)"), "\"train\" says the opposite"},
      {row_with("user", R"("loss": 1)"), "\"loss\" is for messages of the assistant"},
      {row_with("user", R"("weight": 1)"), "\"weight\" is for messages of the assistant"},
      {row_with("user", R"("tool_calls": [{"id": "a"}])"), "this one is of the user"},
      {row_with("user", R"("reasoning": "a")"), "\"reasoning\" is for"},
      {row_with("assistant", R"("tool_call_id": "a")"),
       "\"tool_call_id\" is for messages of the tool"},
      {row_with("user", R"("value": "y")"), "\"content\" and \"value\" stand together"},
      {row_with("user", R"("from": "human")"), "\"role\" and \"from\""},
      {R"({"messages": [{"role": "user"}], "conversations": [{"from": "human"}]})",
       "\"messages\" and \"conversations\""},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
          {"role": "tool", "content": "x", "tool_call_id": "1", "name": "g"}]})",
       "\"name\" is \"g\", but the call 1 is of \"f\""},
      {R"({"messages": [], "System": "s"})", "\"System\": the system prompt stands under"},
      {R"({"messages": [], "videos": ["v"]})", "no videos"},
      {R"({"messages": [], "image_path": "a.png"})", "\"image_path\": pictures stand under"},
      {R"({"messages": [], "image_paths": ["a.png"]})", "\"image_paths\""},
      {R"({"messages": [], "image_url": {"url": "a"}})", "\"image_url\""},
      {R"({"messages": [], "image_urls": ["a"]})", "\"image_urls\""},
      {R"({"messages": [], "Image": "a"})", "\"Image\""},
      {R"({"messages": [], "Images": ["a"]})", "\"Images\""},
      {R"({"messages": [], "img": "a"})", "\"img\""},
      {R"({"messages": [], "weight": 0})", "\"weight\": what is learnt stands in each message"},
      {R"({"messages": [], "train": false})", "\"train\""},
      {R"({"messages": [], "train_on": "all"})", "\"train_on\""},
      {R"({"messages": [], "question": "q", "answer": "a"})", "\"question\" and \"answer\" beside"},
      {R"({"conversations": [], "prompt": "q", "response": "a"})", "\"prompt\" and \"response\""},
      {row_of_part(R"({"type": "text", "text": "a", "weight": 0})"), "\"weight\""},
      {row_of_part(R"({"type": "thinking", "thinking": "a", "text": "b"})"), "\"text\""},
      {row_of_part(R"({"type": "image", "path": "a", "url": "b"})"), "path and url both name"},
      {row_of_part(R"({"type": "image", "image": {"path": "a", "crop": [1]}})"), "\"crop\""},
      {row_of_part(R"({"type": "image", "index": 1})", R"(, "images": ["a"])"), "taken in order"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"type": "code", "function": {"name": "f"}}]}]})",
       "type \"code\""},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "strict": true}}]}]})",
       "function: nobody reads \"strict\""},
  };
  for (const auto& [text, part] : lost) {
    SCOPED_TRACE(text);
    EXPECT_REFUSED(parse(text), part);
  }
  // Where its pictures came from.
  EXPECT_NO_THROW(parse(
      R"({"messages": [{"role": "user", "content": "a"}], "images": ["a"], "image_path": "b"})"));
  // The answer to compare with is a note of the data set.
  EXPECT_NO_THROW(parse(R"({"messages": [], "answer": "a", "solution": "b"})"));
  // What says nothing is not there.
  for (const char* keys : {R"("train": null)", R"("tool_calls": [])", R"("weight": 0)",
                           R"("prefix": false)", R"("value": "")"}) {
    EXPECT_NO_THROW(
        parse_conversation(parse_json(row_with("user", keys), "row"), "row", OtherKeys::kRefused))
        << keys;
  }
  EXPECT_NO_THROW(parse(row_of_part(R"({"type": "image", "index": 0})", R"(, "images": ["a"])")));
}

TEST(ChatJson, AKeyThatStandsTwice) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"messages": [], "messages": []})", "\"messages\""},
      {R"({"messages": [{"role": "user", "content": "a", "content": "b"}]})", "\"content\""},
      {R"({"messages": [{"role": "user", "content": "a", "c\u006fntent": "b"}]})", "\"content\""},
      {R"({"tools": [{"a": {"b": [{"x": 1}, {"x": 1, "y": {}, "x": null}]}}]})", "\"x\""},
  };
  for (const auto& [text, key] : cases) {
    SCOPED_TRACE(text);
    EXPECT_REFUSED(parse_json_of_single_keys(text, "a line"),
                   fmt::format("a line: {} stands twice", key));
  }
  const char* once = R"({"a": [{"b": 1, "a": "a"}, {"b": 1}], "b": {"a": {"a": 2}, "b": 3.5}})";
  EXPECT_EQ(parse_json_of_single_keys(once, "a line"), parse_json(once, "a line"));
  EXPECT_REFUSED(parse_json_of_single_keys("{", "a line"), "a line: not valid JSON");
  // Of a row's tools, where they are a text of JSON.
  EXPECT_REFUSED(parse(R"({"messages": [], "tools": "[{\"a\": 1, \"a\": 2}]"})"),
                 "tools: \"a\" stands twice");
}

// Outputs of json.dumps(json.loads(text), ensure_ascii=False).
TEST(ChatJson, PythonsSpelling) {
  const std::pair<const char*, const char*> cases[] = {
      {R"( {"b":1,"a":[1,2 , {}],"b":null} )", R"({"b": null, "a": [1, 2, {}]})"},
      {R"([1.0, 1e5, 1E16, 123456789012345680.0, 1e-4, 0.00001, 1.5e-07, -0.0, -0, 1e400, NaN, -Infinity])",
       R"([1.0, 100000.0, 1e+16, 1.2345678901234568e+17, 0.0001, 1e-05, 1.5e-07, -0.0, 0, Infinity, NaN, -Infinity])"},
      {R"(123456789012345678901234567890)", R"(123456789012345678901234567890)"},
      {R"("\u00fc\ud83d\ude00\/\b\f\n\r\t\u0001\"\\")", "\"ü😀/\\b\\f\\n\\r\\t\\u0001\\\"\\\\\""},
      {R"("\ud83d x \ude00")", "\"\uFFFD x \uFFFD\""},
      {"\"\x7f\"", "\"\x7f\""},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(python_json(text), expected);
  for (const char* text :
       {"", "free text", "01", "1.", ".5", "+1", "[1,]", "{\"a\":1,}", "{a:1}", "\"\n\"", "\"\\x\"",
        "nul", "1 2", "[", "{\"a\"", "\"", "\"\\u12g4\"", "'a'"}) {
    EXPECT_EQ(python_json(text), std::nullopt) << text;
  }
  EXPECT_REFUSED(python_json(std::string(100'000, '[')), "deeper");
}

constexpr const char* kTemplate2512 =
    R"({#- Default system message if no system prompt is passed. #}
{%- set default_system_message = 'You are it.\nToday is {today}.\n\nIt\'s "so" \\ \u00e9.' %}
{{- bos_token }}[SYSTEM_PROMPT] [INST] [TOOL_CALLS] [ARGS])";
constexpr const char* kPrompt2512 = "You are it.\nToday is {today}.\n\nIt's \"so\" \\ é.";

TEST(ChatTemplate, PromptAndVersion) {
  const TempDir directory;
  EXPECT_EQ(default_system_prompt(directory.path()), std::nullopt);
  write_text(directory / "SYSTEM_PROMPT.txt", "from the file");
  EXPECT_EQ(default_system_prompt(directory.path()), "from the file");
  write_text(directory / "tokenizer_config.json", Json{{"chat_template", kTemplate2512}}.dump());
  EXPECT_EQ(default_system_prompt(directory.path()), kPrompt2512);
  write_text(
      directory / "tokenizer_config.json",
      Json{{"chat_template",
            {{{"name", "x"}, {"template", ""}}, {{"name", "default"}, {"template", "[INST]"}}}}}
          .dump());
  EXPECT_EQ(read_chat_template(directory.path()), "[INST]");
  EXPECT_EQ(default_system_prompt(directory.path()), "from the file");
  write_text(directory / "chat_template.jinja", "{%- set default_system_message = '' %}");
  EXPECT_EQ(default_system_prompt(directory.path()), "from the file");
  write_text(directory / "chat_template.jinja", "{%- set default_system_message = \"a'b\" %}");
  EXPECT_EQ(default_system_prompt(directory.path()), "a'b");
  write_text(directory / "chat_template.jinja", "{%- set default_system_message = 'never ends");
  EXPECT_EQ(default_system_prompt(directory.path()), "from the file");
  write_text(directory / "tokenizer_config.json", "{\"chat_template\": 5}");
  std::filesystem::remove(directory / "chat_template.jinja");
  EXPECT_REFUSED(read_chat_template(directory.path()), "\"chat_template\"");

  EXPECT_EQ(template_version("[INST] [SYSTEM_PROMPT] [ARGS] [MODEL_SETTINGS]"), 15);
  EXPECT_EQ(template_version(kTemplate2512), 13);
  EXPECT_EQ(template_version("[INST] [SYSTEM_PROMPT] [CALL_ID] [ARGS]"), 11);
  EXPECT_EQ(template_version("[INST] [SYSTEM_PROMPT]"), 7);
  EXPECT_EQ(template_version("[INST]"), 3);
  EXPECT_EQ(template_version("<|im_start|>"), std::nullopt);
}

TEST(ChatTemplate, DefaultPromptOnRequest) {
  const TempDir directory;
  write_text(directory / "tekken.json", read_text(kTokenizerGolden / "tekken.json"));
  const Tokenizer tokenizer = Tokenizer::open(directory.path());
  const auto rendered = [&](std::string_view choice, const char* text) {
    Conversation conversation = conversation_of(text);
    add_system_prompt(conversation, choice, tokenizer);
    return render(tokenizer, ChatEncoder(tokenizer).encode(conversation));
  };
  const char* user = R"({"messages": [{"role": "user", "content": "a"}]})";
  const char* system =
      R"({"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]})";
  EXPECT_REFUSED(rendered("default", user), "no default system prompt");
  write_text(directory / "chat_template.jinja", kTemplate2512);
  EXPECT_EQ(rendered("none", user), "<s>[INST]a[/INST]");
  EXPECT_EQ(rendered("default", user),
            std::string("<s>[SYSTEM_PROMPT]") + kPrompt2512 + "[/SYSTEM_PROMPT][INST]a[/INST]");
  EXPECT_EQ(rendered("Be brief.", user),
            "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]a[/INST]");
  EXPECT_EQ(rendered("default", system), "<s>[SYSTEM_PROMPT]own[/SYSTEM_PROMPT][INST]a[/INST]");
  // The reasoning prompt spells its thought with the names of the tokens.
  Conversation conversation = conversation_of(user);
  add_system_prompt(conversation, "first[THINK]draft[/THINK]then", tokenizer);
  const auto ids = ChatEncoder(tokenizer).encode(conversation).ids;
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.special("[THINK]")), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.special("[/THINK]")), 1);
}

// A checkpoint with tokenizer.json only: its template decides.
// users' pain point 13: another chat template.
TEST(ChatTemplate, ChoosesTheLayout) {
  const TempDir directory;
  write_text(directory / "tokenizer.json", read_text(kTokenizerGolden / "converted.json"));
  EXPECT_EQ(Tokenizer::open(directory.path()).version(), 13);
  write_text(directory / "chat_template.jinja", "[INST] [SYSTEM_PROMPT] [TOOL_CONTENT]");
  EXPECT_EQ(Tokenizer::open(directory.path()).version(), 7);
}

}  // namespace
}  // namespace trestle
