// Ids and texts against mistral-common (real vocabulary) and Hugging Face tokenizers (small ones).
#include <gtest/gtest.h>

#include <chrono>

#include "errors.h"
#include "temp_dir.h"
#include "tokenizer/testing.h"
#include "tokenizer/tokenizer.h"

namespace trestle {
namespace {

using namespace testing;

const Tokenizer& real() {
  static const Tokenizer tokenizer = Tokenizer::open(real_vocabulary());
  return tokenizer;
}

uint64_t checksum(const std::vector<int64_t>& ids) {
  uint64_t sum = 0;
  for (size_t i = 0; i < ids.size(); ++i) sum += (i + 1) * static_cast<uint64_t>(ids[i]);
  return sum;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// users' pain point 7: ids that differ.
TEST(Tokenizer, RealVocabulary) {
  EXPECT_EQ(real().vocab_size(), 131072);
  EXPECT_EQ(real().version(), 3);
  EXPECT_EQ(real().special("<s>"), 1);
  EXPECT_EQ(real().special("[IMG_END]"), 13);
  EXPECT_EQ(real().special("<SPECIAL_999>"), 999);
  EXPECT_FALSE(real().find_special("[THINK]"));
  EXPECT_TRUE(real().is_special(999));
  EXPECT_FALSE(real().is_special(1000));
  EXPECT_EQ(real().bytes_of(1000 + 'A'), "A");
  ASSERT_TRUE(real().image());
  EXPECT_EQ(real().image()->patch_size, 16);
  EXPECT_EQ(real().image()->max_size, 1024);
}

TEST(Tokenizer, TextsOfManyScripts) {
  const auto rows = golden_lines("texts.jsonl");
  ASSERT_GT(rows.size(), 200u);
  for (const Json& row : rows) {
    const std::string text = row["text"];
    EXPECT_EQ(real().encode(text), golden_ids(row["ids"])) << text;
    EXPECT_EQ(real().decode(golden_ids(row["ids"])), text);
  }
}

// Each character of Unicode 16 (private use aside) in eight contexts: the classes agree with
// tiktoken's, whatever Unicode PCRE2 has. tests/interop/test_tokenizer.py does the same with every
// scalar value.
TEST(Tokenizer, EveryAssignedCharacter) {
  const auto blocks = golden_lines("scalars.jsonl");
  std::vector<uint32_t> scalars;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    const bool is_surrogate = c >= 0xD800 && c <= 0xDFFF;
    if (!is_surrogate && (c < 0x34000 || (c >= 0xE0000 && c < 0xE1000))) scalars.push_back(c);
  }
  constexpr size_t kBlock = 4096;
  ASSERT_EQ(blocks.size(), (scalars.size() + kBlock - 1) / kBlock);
  for (size_t block = 0; block < blocks.size(); ++block) {
    std::string text;
    for (size_t i = block * kBlock; i < std::min(scalars.size(), (block + 1) * kBlock); ++i) {
      std::string c;
      append_utf8(c, scalars[i]);
      text += fmt::format("{0}\na{0}b A{0}A {0}{0}1{0}  {0}x{0}/\n", c);
    }
    EXPECT_EQ(checksum(real().encode(text)), blocks[block].get<uint64_t>())
        << "block from U+" << std::hex << scalars[block * kBlock];
  }
}

TEST(Tokenizer, VeryLongPiecesStayFast) {
  for (const Json& row : golden_lines("repeats.jsonl")) {
    const std::string unit = row["unit"];
    std::string text;
    for (int i = 0; i < row["count"].get<int>(); ++i) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const auto ids = real().encode(text);
    // Tens of milliseconds; a quadratic scan of 100,000 letters takes minutes.
    EXPECT_LT(seconds_since(start), 5) << unit;
    EXPECT_EQ(ids.size(), row["size"].get<size_t>()) << unit;
    EXPECT_EQ(checksum(ids), row["checksum"].get<uint64_t>()) << unit;
    EXPECT_EQ(real().decode(ids), text);
  }
}

// users' pain point 7: ids that differ.
TEST(Tokenizer, ControlTokensNeverComeFromText) {
  for (int64_t id = 0; id < 1000; ++id) {
    const std::string name(real().bytes_of(id));
    const auto parts = real().encode(name);
    ASSERT_FALSE(parts.empty()) << id << " is named \"" << name << '"';
    for (const int64_t part : parts) EXPECT_GE(part, 1000) << name;
  }
}

TEST(Tokenizer, InvalidUtf8CountsAsReplacement) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\xFFz", "a\uFFFDz"},
      {"\xE4\xBD", "\uFFFD"},
      {"\xE4\xBDx", "\uFFFDx"},
      {"\xF0\x9F\x98 \xF0\x9F\x98\x80", "\uFFFD \U0001F600"},
      {"\xC0\xAF", "\uFFFD\uFFFD"},                      // overlong
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},            // surrogate
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // past U+10FFFF
      {"\xE2\x82\xE2\x82\xAC", "\uFFFD\u20AC"},
  };
  for (const auto& [bytes, repaired] : cases) {
    EXPECT_EQ(repair_utf8(bytes), repaired);
    EXPECT_EQ(real().encode(bytes), real().encode(repaired));
  }
  EXPECT_EQ(repair_json_text(R"("\ud83d\ude00 \ud83d \ude00 \\ud83d")"),
            R"("\ud83d\ude00 \ufffd \ufffd \\ud83d")");
}

TEST(Tokenizer, DecodingOfAnyIds) {
  for (const Json& row : golden_lines("decoded.jsonl")) {
    const auto ids = golden_ids(row["ids"]);
    EXPECT_EQ(real().decode(ids), row["skip"].get<std::string>());
    EXPECT_EQ(real().decode(ids, Specials::kKeep), row["keep"].get<std::string>());
  }
}

TEST(Tokenizer, StreamingGivesWholeCharacters) {
  const std::string text = "né 你好 👨‍👩‍👧 \U0001F3F4 end";
  std::vector<int64_t> ids;
  for (const char c : text) ids.push_back(1000 + static_cast<uint8_t>(c));  // one byte an id
  StreamingDecoder decoder(real());
  std::string streamed;
  for (const int64_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_EQ(repair_utf8(piece), piece);
    streamed += piece;
  }
  EXPECT_EQ(streamed + decoder.flush(), text);

  EXPECT_EQ(decoder.push(1000 + 0xF0), "");
  EXPECT_EQ(decoder.push(1000 + 0x9F), "");
  EXPECT_EQ(decoder.push(1000 + 0x98), "");
  EXPECT_EQ(decoder.flush(), "\uFFFD");
  EXPECT_EQ(decoder.flush(), "");
  EXPECT_EQ(decoder.push(1000 + 0xF0), "");
  EXPECT_EQ(decoder.push(2), "\uFFFD");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreRefused) {
  for (const int64_t id : {-1l, 131072l, INT64_MAX, INT64_MIN}) {
    EXPECT_REFUSED(real().decode(std::vector<int64_t>{id}), "0 to 131071");
  }
  EXPECT_REFUSED(real().special("[NOPE]"), "[NOPE]");
}

// The two formats of one vocabulary give the same ids; a trained BPE with one merge a token follows
// its merges; a vocabulary of single bytes works.
TEST(Tokenizer, SmallVocabularies) {
  const Tokenizer tekken = Tokenizer::open(kTokenizerGolden / "tekken.json");
  const Tokenizer converted = Tokenizer::open(kTokenizerGolden / "converted.json");
  const Tokenizer trained = Tokenizer::open(kTokenizerGolden / "trained.json");
  const Tokenizer bytes = Tokenizer::open(kBytesCheckpoint);
  EXPECT_EQ(tekken.vocab_size(), 808);
  EXPECT_EQ(tekken.version(), 13);
  EXPECT_EQ(converted.vocab_size(), 808);
  EXPECT_EQ(converted.special("[IMG]"), 10);
  EXPECT_EQ(bytes.vocab_size(), 270);
  const auto rows = golden_lines("small.jsonl");
  ASSERT_GT(rows.size(), 150u);
  for (const Json& row : rows) {
    const std::string text = row["text"];
    EXPECT_EQ(tekken.encode(text), golden_ids(row["tekken"])) << text;
    EXPECT_EQ(converted.encode(text), golden_ids(row["tekken"])) << text;
    EXPECT_EQ(trained.encode(text), golden_ids(row["trained"])) << text;
    EXPECT_EQ(bytes.encode(text), golden_ids(row["bytes"])) << text;
    for (const Tokenizer* tokenizer : {&tekken, &converted, &trained, &bytes}) {
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    }
  }
}

TEST(Tokenizer, DirectoriesAreSearched) {
  const TempDir directory;
  EXPECT_REFUSED(Tokenizer::open(directory.path()), "neither tekken.json nor tokenizer.json");
  EXPECT_REFUSED(Tokenizer::open(directory / "none"), "does not exist");
  write_text(directory / "tokenizer/tokenizer.json",
             read_text(kBytesCheckpoint / "tokenizer.json"));
  EXPECT_EQ(Tokenizer::open(directory.path()).vocab_size(), 270);
  write_text(directory / "tokenizer.json", read_text(kTokenizerGolden / "trained.json"));
  EXPECT_EQ(Tokenizer::open(directory.path()).vocab_size(), 500);
  write_text(directory / "tekken.json", read_text(kTokenizerGolden / "tekken.json"));
  EXPECT_EQ(Tokenizer::open(directory.path()).vocab_size(), 808);
}

// Each change to a good file must be refused with a line that names the place.
TEST(Tokenizer, MalformedFilesAreRefused) {
  using Change = std::function<void(Json&)>;
  const TempDir directory;
  const auto path = directory / "changed.json";
  const auto refuse = [&](const char* name, const Change& change, const std::string& part) {
    Json json = read_json(kTokenizerGolden / name);
    change(json);
    write_json(path, json);
    EXPECT_REFUSED(Tokenizer::open(path), part);
  };
  const auto tekken = [&](const Change& change, const std::string& part) {
    refuse("tekken.json", change, part);
  };
  tekken([](Json& j) { j.erase("vocab"); }, "neither");
  tekken([](Json& j) { j["vocab"] = 3; }, "\"vocab\"");
  tekken([](Json& j) { j["config"]["default_vocab_size"] = 1 << 30; }, "default_vocab_size");
  tekken([](Json& j) { j["config"]["default_vocab_size"] = -5; }, "default_vocab_size");
  tekken([](Json& j) { j["config"]["default_vocab_size"] = 900; }, "there are 768");
  tekken([](Json& j) { j["config"]["default_num_special_tokens"] = 700; },
         "default_num_special_tokens");
  tekken([](Json& j) { j["config"]["default_num_special_tokens"] = UINT64_MAX; }, "default_num");
  tekken([](Json& j) { j["config"]["default_num_special_tokens"] = 10; }, "leaves 798 rows");
  tekken([](Json& j) { j["config"]["version"] = "thirteen"; }, "version");
  tekken([](Json& j) { j["config"]["pattern"] = "(a"; }, "does not compile");
  tekken([](Json& j) { j["config"]["pattern"] = R"([\S])"; }, "negated class");
  tekken([](Json& j) { j["config"]["pattern"] = R"(\C)"; }, "does not compile");  // half characters
  tekken([](Json& j) { j["vocab"][300]["rank"] = 301; }, "vocab[300]");
  tekken([](Json& j) { j["vocab"][300]["token_bytes"] = "a?=="; }, "vocab[300]");
  tekken([](Json& j) { j["vocab"][300]["token_bytes"] = "abc"; }, "vocab[300]");
  tekken([](Json& j) { j["vocab"][300]["token_bytes"] = ""; }, "vocab[300]");
  tekken([](Json& j) { j["vocab"][300] = 7; }, "vocab[300]");
  tekken([](Json& j) { j["vocab"][7]["token_bytes"] = "YWI="; }, "first 256");
  tekken([](Json& j) { j["vocab"][300]["token_bytes"] = j["vocab"][301]["token_bytes"]; },
         "same bytes");
  tekken([](Json& j) { j["special_tokens"][3]["rank"] = 4; }, "special_tokens[3]");
  tekken([](Json& j) { j["special_tokens"][3]["token_str"] = "<s>"; }, "same name");
  tekken([](Json& j) { j.erase("special_tokens"); }, "special_tokens");
  tekken([](Json& j) { j["image"]["image_patch_size"] = 0; }, "image_patch_size");

  const auto hf = [&](const Change& change, const std::string& part) {
    refuse("trained.json", change, part);
  };
  hf([](Json& j) { j["model"]["type"] = "Unigram"; }, "\"BPE\"");
  hf([](Json& j) { j["normalizer"] = {{"type", "NFC"}}; }, "normalizer");
  hf([](Json& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback");
  hf([](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; }, "add_prefix_space");
  hf([](Json& j) { j["pre_tokenizer"]["type"] = "Whitespace"; }, "Whitespace");
  hf([](Json& j) { j["pre_tokenizer"] = nullptr; }, "pre_tokenizer");
  hf([](Json& j) { j["added_tokens"][0]["id"] = 1u << 31; }, "\"id\"");
  hf([](Json& j) { j["model"]["vocab"]["a"] = 1ll << 40; }, "\"a\"");
  hf([](Json& j) { j["model"]["vocab"]["a"] = j["model"]["vocab"]["b"]; }, "two tokens");
  hf([](Json& j) { j["model"]["vocab"]["\u4F60"] = 5; }, "alphabet");
  hf([](Json& j) { j["model"]["vocab"].erase("a"); }, "merges");
  hf([](Json& j) { j["model"]["vocab"].erase("z"), j["model"]["merges"] = Json::array(); },
     "byte 122");
  hf([](Json& j) { j["model"]["merges"][0] = {"a", "nope"}; }, "merges[0]");
  hf([](Json& j) { j["model"]["merges"][0] = 5; }, "merges[0]");

  const auto text = [&](const std::string& content, const std::string& part) {
    write_text(path, content);
    EXPECT_REFUSED(Tokenizer::open(path), part);
  };
  text("", "not valid JSON");
  text("{\"config\": {}, \"vocab\": [", "not valid JSON");
  text("[1, 2]", "neither");
  text(std::string(1'000'000, '['), "not valid JSON");
  text("{\"model\": " + std::string(500'000, '[') + std::string(500'000, ']') + "}", "\"model\"");
}

TEST(Pretokenizer, RunawayPatternsAreStopped) {
  const Pretokenizer pretokenizer("(a+)+(b|c)", "test");
  EXPECT_REFUSED(pretokenizer.split(std::string(5000, 'a'), [](std::string_view) {}),
                 "the pattern fails");
  std::vector<std::string> pieces;
  Pretokenizer("b+", "test").split("aabba", [&](std::string_view piece) {
    pieces.emplace_back(piece);
  });
  EXPECT_EQ(pieces, (std::vector<std::string>{"aa", "bb", "a"}));
}

}  // namespace
}  // namespace trestle
