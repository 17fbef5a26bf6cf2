// Rows as other tools and data sets have them: columns that mean something there, empty ones, calls
// without ids, places of pictures.
#include <gtest/gtest.h>

#include "chat/chat.h"
#include "chat/exchange.h"
#include "chat/json.h"
#include "chat/keys.h"
#include "chat/known_keys.h"
#include "errors.h"
#include "tokenizer/testing.h"

namespace trestle {
namespace {

using namespace testing;

Conversation parse(const std::string& text, OtherKeys others = OtherKeys::kOfDataSets) {
  return parse_conversation(parse_json(text, "row"), "row", others);
}

// A question and its answer, as messages and as ShareGPT's turns, with more keys in the row.
std::string row(const std::string& keys) {
  return R"({"messages": [{"role": "user", "content": "What is the total?"},
             {"role": "assistant", "content": "13.75"}])" +
         (keys.empty() ? "" : ", " + keys) + "}";
}
std::string turns(const std::string& keys) {
  return R"({"conversations": [{"from": "human", "value": "What is the total?"},
             {"from": "gpt", "value": "13.75"}])" +
         (keys.empty() ? "" : ", " + keys) + "}";
}

std::string shape(const Conversation& conversation) {
  std::string out;
  for (const Message& message : conversation.messages) {
    out += std::string(role_name(message.role)) + (message.trained ? ": " : " (not learnt): ");
    for (const Part& part : message.parts) {
      out += part.kind == Part::Kind::kImage ? "[" + part.image.source + "]" : part.text;
    }
    for (const ToolCall& call : message.tool_calls) out += call.name + call.arguments;
    out += "\n";
  }
  return out + (conversation.tools.is_null() ? "" : conversation.tools.dump());
}

const Tokenizer& tokenizer() {
  static const Tokenizer opened = Tokenizer::open(kTokenizerGolden / "tekken.json");
  return opened;
}

std::vector<int64_t> ids(const std::string& text, int version = 13) {
  return ChatEncoder(tokenizer(), version).encode(parse(text)).ids;
}

// users' pain point 26: a system prompt in a column of its own.
TEST(RowShapes, ASystemPromptInAColumnOfItsOwn) {
  const auto wanted = ids(R"({"messages": [{"role": "system", "content": "One word."},
      {"role": "user", "content": "What is the total?"}, {"role": "assistant", "content": "13.75"}]})");
  for (const char* key : {"system", "system_prompt", "system_message"}) {
    const std::string keys = fmt::format(R"("{}": "One word.")", key);
    EXPECT_EQ(ids(row(keys)), wanted) << key;
    EXPECT_EQ(ids(turns(keys)), wanted) << key;
    EXPECT_NO_THROW(parse(row(keys), OtherKeys::kRefused));
  }
  // Said twice it is said once; two prompts are one too many.
  const char* both = R"({"system": "%", "messages": [{"role": "system", "content": "One word."},
      {"role": "user", "content": "What is the total?"}, {"role": "assistant", "content": "13.75"}]})";
  const auto with = [&](const std::string& system) {
    std::string text = both;
    return text.replace(text.find('%'), 1, system);
  };
  EXPECT_EQ(ids(with("One word.")), wanted);
  EXPECT_REFUSED(parse(with("Two words.")), "and another among them");
  EXPECT_REFUSED(parse(row(R"("system": "a", "system_prompt": "b")")),
                 "\"system_prompt\" is another system prompt");
  EXPECT_REFUSED(parse(row(R"("system": ["a"])")), "\"system\" must be a text");
}

// users' pain point 27: several texts about one picture.
TEST(RowShapes, SeveralTextsAboutOnePicture) {
  EXPECT_EQ(shape(parse(R"({"images": ["a.png"], "texts": [
                {"user": "What is it?", "assistant": "A receipt.", "source": "docs"},
                {"user": "And the tax?", "assistant": "1.25"}]})")),
            "user: [a.png]What is it?\nassistant: A receipt.\nuser: And the tax?\nassistant: "
            "1.25\n");
  EXPECT_REFUSED(parse(R"({"texts": [{"user": "a"}]})"), "texts[0]: it has no assistant");
  EXPECT_REFUSED(parse(R"({"texts": ["a"]})"), "texts[0]: it has no user");
  EXPECT_REFUSED(parse(R"({"texts": [{"user": "a", "assistant": "b", "system": "c"}]})"),
                 "nobody reads \"system\"");
  EXPECT_REFUSED(parse(row(R"("texts": [{"user": "a", "assistant": "b"}])")),
                 "\"messages\" and \"texts\" stand together");
}

TEST(RowShapes, AFunctionCallAndItsObservation) {
  const std::string text = shape(parse(R"({"conversations": [
      {"from": "human", "value": "How much is tea?"},
      {"from": "function_call", "value": "{\"name\": \"price_of\", \"arguments\": {\"item\": \"tea\"}}"},
      {"from": "observation", "value": "12.50"}, {"from": "gpt", "value": "12.50"}],
      "tools": "[{\"name\": \"price_of\", \"parameters\": {}}]"})"));
  EXPECT_EQ(text,
            "user: How much is tea?\nassistant: price_of{\"item\":\"tea\"}\ntool: 12.50\n"
            "assistant: 12.50\n"
            R"([{"type":"function","function":{"name":"price_of","parameters":{}}}])");
}

TEST(RowShapes, JsonTextsOfListsAreRead) {
  EXPECT_EQ(shape(parse(R"({"images": "[\"a.png\"]", "messages":
                "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"r\"}]"})")),
            "user: [a.png]q\nassistant: r\n");
}

std::string messages_of(Json row) {
  const QuestionAnswer* pair = question_answer_of(row);
  if (pair == nullptr) return "no pair";
  make_messages(row, *pair, "row");
  return shape(parse_conversation(row, "row"));
}

TEST(RowShapes, AnInstructionWithItsInputAndHistory) {
  EXPECT_EQ(messages_of({{"instruction", "Add."}, {"input", "1 2"}, {"output", "3"}}),
            "user: Add.\n1 2\nassistant: 3\n");
  EXPECT_EQ(messages_of({{"instruction", "Add."}, {"input", ""}, {"output", "3"}, {"system", "s"}}),
            "system: s\nuser: Add.\nassistant: 3\n");
  EXPECT_EQ(messages_of(Json::parse(
                R"({"query": "q", "response": "r", "history": [["a", "b"]], "system": null})")),
            "user: a\nassistant: b\nuser: q\nassistant: r\n");
  EXPECT_REFUSED(messages_of({{"query", "q"}, {"response", "r"}, {"history", "a"}}),
                 "\"history\" must be a list of");
  EXPECT_REFUSED(messages_of(Json::parse(R"({"question": ["q", "p"], "answer": ["r", "s"]})")),
                 "\"question\" holds 2 texts, and one is read");
  for (const char* beside : {"context", "choices", "hint", "input", "rejected", "kto_tag"}) {
    Json lost = {{"question", "q"}, {"answer", "r"}};
    lost[beside] = "more";
    EXPECT_REFUSED(messages_of(lost), fmt::format("nobody reads \"{}\"", beside));
  }
  for (const Json label : {Json(false), Json(true), Json(0), Json(1)}) {
    EXPECT_REFUSED(messages_of({{"prompt", "q"}, {"completion", "r"}, {"label", label}}),
                   "nobody reads \"label\"");
  }
}

// users' pain point 28: columns that are there and empty.
TEST(EmptyColumns, CountAsAbsent) {
  const auto wanted = ids(row(""));
  const auto with_tool = [](const std::string& keys) {
    return ids(row(R"("tools": [{"type": "function", "function": {"name": "f")" + keys + "}}]"));
  };
  for (const char* value : {"null", "\"\"", "[]", "{}"}) {
    EXPECT_EQ(with_tool(fmt::format(R"(, "description": {0}, "parameters": {0})", value)),
              with_tool(""));
  }
  for (const char* value : {"null", "\"\"", "[]", "{}", "\"[]\"", "\"null\"", "\" \"", "[null]",
                            R"([{"bytes": null, "path": null}])"}) {
    for (const char* key : {"system", "tools", "images", "image", "videos", "audios", "history",
                            "rejected", "objects", "texts", "question", "chat_template_kwargs"}) {
      const std::string keys = fmt::format(R"("{}": {})", key, value);
      EXPECT_EQ(ids(row(keys)), wanted) << keys;
      EXPECT_EQ(ids(turns(keys)), wanted) << keys;
      EXPECT_NO_THROW(parse(turns(keys), OtherKeys::kRefused)) << keys;
    }
  }
  EXPECT_EQ(
      ids(R"({"messages": [{"role": null, "content": null, "from": "human", "value": "What is the total?"},
                    {"role": "assistant", "content": "13.75", "from": "", "value": null}]})"),
      wanted);
  EXPECT_EQ(ids(turns(R"("messages": [])")), wanted);
  EXPECT_EQ(ids(turns(R"("messages": null)")), wanted);
  EXPECT_EQ(ids(row(R"("conversations": null)")), wanted);
  EXPECT_EQ(ids(row(R"("objects": {"ref": [], "bbox": []})")), wanted);
}

// users' pain point 28: columns that are there and empty.
TEST(EmptyColumns, OfAMessageAndItsCall) {
  for (const char* value : {"null", "\"\"", "[]"}) {
    const std::string text = fmt::format(
        R"({{"messages": [{{"role": "user", "content": "t", "tool_calls": {0}, "name": {0}, "reasoning": {0}}},
            {{"role": "assistant", "content": "x", "tool_calls": {0}, "reasoning": {0}, "reasoning_content": {0},
              "tool_call_id": {0}, "weight": {0}, "prefix": {0}, "train": {0}}}]}})",
        value);
    EXPECT_EQ(shape(parse(text)), "user: t\nassistant: x\n") << value;
    const std::string call = fmt::format(
        R"({{"messages": [{{"role": "user", "content": "t"}},
            {{"role": "assistant", "content": null, "tool_calls": [{{"id": {0}, "type": {0}, "index": 0,
              "function": {{"name": "f", "arguments": {0}}}}}]}},
            {{"role": "tool", "content": "r", "tool_call_id": {0}, "name": {0}}}]}})",
        value);
    const Conversation conversation = parse(call);
    EXPECT_EQ(shape(conversation), "user: t\nassistant: f\ntool: r\n") << value;
    EXPECT_NO_THROW(ChatEncoder(tokenizer()).encode(conversation)) << value;
  }
}

// users' pain point 29: tool calls without ids.
TEST(ToolCallIds, AreFilledWhereTheLayoutWritesNone) {
  const auto talk = [](const char* ids_of_calls, const char* first, const char* second) {
    return fmt::format(
        R"({{"messages": [{{"role": "user", "content": "t"}}, {{"role": "assistant", "tool_calls": [
            {{{0} "function": {{"name": "f", "arguments": {{}}}}}}, {{{1} "function": {{"name": "g", "arguments": {{}}}}}}]}},
            {{"role": "tool", {2} "content": "{4}"}}, {{"role": "tool", {3} "content": "{5}"}},
            {{"role": "assistant", "content": "x"}}]}})",
        *ids_of_calls != '\0' ? R"("id": "a",)" : "", *ids_of_calls != '\0' ? R"("id": "b",)" : "",
        first, second, std::string_view(first).find('g') != std::string_view::npos ? "2" : "1",
        std::string_view(first).find('g') != std::string_view::npos ? "1" : "2");
  };
  const auto wanted = ids(talk("ab", R"("tool_call_id": "a",)", R"("tool_call_id": "b",)"));
  const std::pair<const char*, const char*> results[] = {
      {"", ""},                                // in the order of the calls
      {R"("name": "f",)", R"("name": "g",)"},  // by name
      {R"("name": "g",)", R"("name": "f",)"},  // which settles the order
      {R"("tool_call_id": "a",)", R"("tool_call_id": "b",)"},
      {R"("tool_call_id": "a",)", ""},
      {"", R"("tool_call_id": "b",)"},
      {R"("tool_call_id": "", "name": "f",)", R"("tool_call_id": "null",)"},
  };
  for (const auto& [first, second] : results) {
    EXPECT_EQ(ids(talk("", first, second)), wanted) << first << second;
    EXPECT_EQ(ids(talk("ab", first, second)), wanted) << first << second;
  }
  // Two turns of calls, and a call that nothing answers yet.
  const char* once = R"({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
                        {"role": "tool", "content": "r"})";
  EXPECT_NO_THROW(ids(fmt::format(
      R"({{"messages": [{{"role": "user", "content": "t"}}, {0}, {0}, {{"role": "assistant",
          "tool_calls": [{{"function": {{"name": "f"}}}}]}}]}})",
      once)));
  EXPECT_REFUSED(ids(talk("", R"("name": "f",)", R"("name": "f",)")),
                 "no call of f before it is without a result");
}

// users' pain point 29: tool calls without ids.
TEST(ToolCallIds, AreAskedForWhereTheLayoutWritesThem) {
  const std::string talk = R"({"messages": [{"role": "user", "content": "t"},
      {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
      {"role": "tool", "content": "r"}, {"role": "assistant", "content": "x"}]})";
  for (const int version : {3, 7, 11}) {
    EXPECT_REFUSED(ids(talk, version),
                   fmt::format("the call of f has no id; layout v{} writes it", version));
  }
}

// users' pain point 30: a key that means something elsewhere is left out in silence.
TEST(Keys, ThatMeanSomethingElsewhere) {
  for (const char* key : {"history",         "rejected",
                          "chosen",          "rejected_response",
                          "objects",         "chat_template_kwargs",
                          "enable_thinking", "prompt",
                          "instruction",     "input",
                          "context",         "videos",
                          "video_path",      "videoUrl",
                          "audios",          "audio_file",
                          "documents",       "functions",
                          "functionCall",    "reasoning",
                          "input_ids",       "loss",
                          "loss_mask",       "train",
                          "weight",          "train_on_inputs",
                          "conversation",    "System",
                          "SYSTEM_PROMPT",   "sys_prompt",
                          "imagePath",       "image_1",
                          "image2_url",      "screenshot"}) {
    EXPECT_REFUSED(parse(row(fmt::format(R"("{}": "more")", key))),
                   fmt::format("row: nobody reads \"{}\": ", key));
    EXPECT_FALSE(is_harmless(key)) << key;
  }
  // What is so anyway.
  for (const char* keys :
       {R"("weight": 1)", R"("train": true)", R"("loss": 1.0)", R"("turns": 2)",
        R"("prompt": "What is the total?")", R"("question": ["What is the total?\n"])",
        R"("target": 13.75)", R"("query": "<image>\nWhat is the total?")"}) {
    EXPECT_NO_THROW(parse(row(keys))) << keys;
  }
  for (const char* key : {"images", "videos", "system", "history", "train_detail", "text",
                          "function_call", "thinking", "documents"}) {
    const std::string text = fmt::format(
        R"({{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b", "{}": "c"}}]}})",
        key);
    EXPECT_REFUSED(parse(text), fmt::format("messages[1]: nobody reads \"{}\": ", key));
  }
}

// What a number says is as much as what a text says.
TEST(Keys, WithNumbersAndTruthValues) {
  for (const char* keys :
       {R"("rejected": 5)", R"("completion": 42)", R"("prompt": 7)", R"("history": 1)",
        R"("videos": 5)", R"("objects": 7)", R"("prompt": true)", R"("choices": [1, 2])",
        R"("turns": 3)", R"("image_path": 1)", R"("label": 0)", R"("label": 1)", R"("label": 0.0)",
        R"("label": true)", R"("label": "False")"}) {
    const std::string_view key =
        std::string_view(keys).substr(1, std::string_view(keys).find(':') - 2);
    EXPECT_REFUSED(parse(row(keys)), fmt::format("row: nobody reads \"{}\": ", key));
    EXPECT_REFUSED(parse(turns(keys)), fmt::format("row: nobody reads \"{}\": ", key));
  }
  // As many messages, and as many questions.
  for (const char* keys : {R"("turns": 2)", R"("turns": 1)", R"("turns": 1, "system": "s")"}) {
    EXPECT_NO_THROW(parse(row(keys))) << keys;
  }
  for (const char* key : {"tool_calls", "reasoning", "tool_call_id"}) {
    const std::string text = fmt::format(
        R"({{"messages": [{{"role": "user", "content": "a", "{}": 0}}, {{"role": "assistant", "content": "b"}}]}})",
        key);
    EXPECT_REFUSED(parse(text), fmt::format("messages[0]: \"{}\" is for messages of the", key));
  }
}

// A text counts as there where it is a whole one: neither a role nor a word of a content.
TEST(Keys, WithTextsThatAreInOthers) {
  for (const char* text :
       {"no", "it", "user", "assistant", "the total", "13", "What is the total"}) {
    EXPECT_REFUSED(parse(row(fmt::format(R"("response": "{}")", text))),
                   "row: nobody reads \"response\": it belongs into the messages");
  }
  EXPECT_REFUSED(parse(row(R"("target": 13)")), "nobody reads \"target\"");
  EXPECT_REFUSED(parse(row(R"("question": ["What is the total?", "And the tax?"])")),
                 "nobody reads \"question\"");
  const std::string parts =
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "Which?"}, {"type": "text", "text": "Say."}]},
          {"role": "assistant", "content": "b"}], "system": "Be short.", "prompt": ")";
  for (const char* text : {"Which?", "Say.", "b", "Be short."}) {
    EXPECT_NO_THROW(parse(parts + text + "\"}")) << text;
  }
  EXPECT_REFUSED(parse(parts + "text\"}"), "nobody reads \"prompt\"");
}

// A passage that the question quotes.
TEST(Keys, WithAPassageOfAMessage) {
  const std::string passage = "The bill of March has three rows and a total of 13.75 with its tax.";
  const auto row = [&](const std::string& context) {
    return Json{{"context", context},
                {"messages",
                 {{{"role", "user"}, {"content", "Read: " + passage + " What is the total?"}},
                  {{"role", "assistant"}, {"content", "13.75"}}}}};
  };
  EXPECT_NO_THROW(parse(row(passage).dump()));
  EXPECT_REFUSED(parse(row(passage + " And more.").dump()), "nobody reads \"context\"");
  EXPECT_REFUSED(parse(row("three rows").dump()), "nobody reads \"context\"");
}

// Answers beside the one that is learnt: a note where they are others.
TEST(Keys, WithFurtherAnswers) {
  const auto unread = [](Json row) {
    const QuestionAnswer* pair = question_answer_of(row);
    if (pair != nullptr) make_messages(row, *pair, "row");
    return parse_conversation(row, "row").unread;
  };
  const std::vector<std::string> none;
  for (const char* key : {"answer", "answers", "solution", "label", "ground_truth", "answer_key"}) {
    EXPECT_EQ(parse(row(fmt::format(R"("{}": "the full solution")", key))).unread,
              std::vector<std::string>{key});
    EXPECT_EQ(parse(row(fmt::format(R"("{}": 7)", key))).unread, std::vector<std::string>{key});
    EXPECT_EQ(parse(row(fmt::format(R"("{}": "13.75")", key))).unread, none) << key;
    EXPECT_EQ(parse(row(fmt::format(R"("{}": [13.75])", key))).unread, none) << key;
    EXPECT_REFUSED(parse(row(fmt::format(R"("{}": "1")", key)), OtherKeys::kRefused), key);
  }
  EXPECT_EQ(unread({{"question", "a"}, {"answer", "b"}, {"solution", "cccc"}}),
            std::vector<std::string>{"solution"});
  // Of ten annotators.
  EXPECT_EQ(unread({{"question", "a"}, {"answer", "b"}, {"answers", {"b", "b", "c"}}}),
            std::vector<std::string>{"answers"});
  EXPECT_EQ(unread({{"question", "a"}, {"answer", "b"}, {"answers", {"b", "b"}}}), none);
  EXPECT_EQ(parse(R"({"messages": [{"role": "user", "content": "a"},
                      {"role": "assistant", "content": "b", "label": "c"}]})")
                .unread,
            std::vector<std::string>{"messages: label"});
  // The name of a file is an answer too.
  EXPECT_NO_THROW(parse(row(R"("answer": "cat.jpg")")));
}

TEST(Keys, OfMessagesSayWhatIsLearnt) {
  for (const char* key : {"weight", "train", "training", "loss"}) {
    for (const char* value : {"0", "false"}) {
      if (std::string_view(key) == "weight" && *value == 'f') continue;
      const std::string text = fmt::format(
          R"({{"messages": [{{"role": "user", "content": "a", "{0}": {1}}}, {{"role": "assistant", "content": "b", "{0}": {1}}}]}})",
          key, value);
      EXPECT_EQ(shape(parse(text)), "user: a\nassistant (not learnt): b\n") << text;
    }
  }
}

// A column of pictures under a name of its own.
TEST(Keys, WithPicturesUnderAnotherName) {
  for (const char* keys :
       {R"("scan": "a.png")", R"("page": ["a.JPG.jpg"])", R"("file_name": "a.webp")",
        R"("figure": "data:image/png;base64,AAAA")", R"("page": {"path": "a.png"})"}) {
    EXPECT_REFUSED(parse(row(keys)), "pictures stand under \"images\"");
  }
  Json of_bytes = parse_json(row(""), "row");
  of_bytes["image_id"] = {{"bytes", Json::binary({0x89, 'P', 'N', 'G', 13})}, {"path", nullptr}};
  EXPECT_REFUSED(parse_conversation(of_bytes, "row"), "nobody reads \"image_id\"");
  EXPECT_NO_THROW(parse(row(R"("images": ["a.png"], "scan": "a.png")")));
  EXPECT_NO_THROW(parse(row(R"("id": "a.png", "url": "https://example.org/a.png")")));
}

TEST(Keys, ThatAreHarmlessAndThatNobodyKnows) {
  EXPECT_TRUE(parse(row(R"("id": 3, "source": "web", "score": 0.5, "licence": "CC", "num_turns": 1,
                            "created_at": "today", "quality_score": 3, "__key__": "0001",
                            "metadata": {"a": [1]}, "answer": "13.75")"))
                  .unread.empty());
  EXPECT_EQ(parse(row(R"("favourite": "tea", "hue": "red", "empty": [])")).unread,
            (std::vector<std::string>{"favourite", "hue"}));
  // Of a message: left alone, counted once a row.
  const Conversation conversation = parse(
      R"({"messages": [{"role": "user", "content": "a", "mood": "b", "timestamp": "2026-02-01"},
          {"role": "assistant", "content": "b", "mood": "c", "token_count": 4}]})");
  EXPECT_EQ(conversation.unread, std::vector<std::string>{"messages: mood"});
  EXPECT_REFUSED(parse(row(R"("hue": "red")"), OtherKeys::kRefused), "nobody reads \"hue\"");
}

// users' pain point 31: a place for a picture, and no picture.
TEST(Places, WithoutAPicture) {
  for (const char* images : {"", R"(, "images": [])", R"(, "images": null)", R"(, "image": "")"}) {
    for (const char* content :
         {R"("<image>\nWhich?")", R"([{"type": "text", "text": "<image>"}])"}) {
      const std::string text = fmt::format(
          R"({{"messages": [{{"role": "user", "content": {}}}, {{"role": "assistant", "content": "b"}}]{}}})",
          content, images);
      EXPECT_REFUSED(parse(text), "messages[0]: the text says \"<image>\", but the row");
      // A user's own words.
      EXPECT_NO_THROW(parse(text, OtherKeys::kRefused));
    }
  }
  // The same number of them: each where it belongs, in parts too.
  EXPECT_EQ(shape(parse(R"({"images": ["a", "b"], "messages": [{"role": "user", "content":
                [{"type": "text", "text": "<image>\nThis,"}, {"type": "text", "text": "or <image>?"}]}]})")),
            "user: [a]This,or [b]?\n");
}

}  // namespace
}  // namespace trestle
