// Files as people have them: one JSON array, Parquet by Polars, pictures by file: URLs and with
// colons in their names.
#include <gtest/gtest.h>

#include <fstream>

#include "base/base64.h"
#include "base/file.h"
#include "data/datasets.h"
#include "data/processor.h"
#include "errors.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using trestle::testing::error_of;
using trestle::testing::expect_mentions;

const std::string kPicture = "image/golden/exact_28x56.png";

std::string text_of(const Conversation& conversation) {
  std::string text;
  for (const Message& message : conversation.messages) {
    text += std::string(role_name(message.role)) + ": ";
    for (const Part& part : message.parts) {
      text += part.kind == Part::Kind::kImage
                  ? "[" + (part.image.bytes ? base64(*part.image.bytes) : part.image.source) + "]"
                  : part.text;
    }
    text += "\n";
  }
  return text;
}

class JsonFiles : public ::testing::Test {
 protected:
  std::unique_ptr<Dataset> dataset(const std::string& text) {
    std::ofstream(folder_ / "rows.json", std::ios::binary) << text;
    return make_dataset("jsonl", folder_ / "rows.json", "");
  }
  static std::string row(const std::string& question) {
    return R"({"id": "0", "conversations": [{"from": "human", "value": ")" + question +
           R"("}, {"from": "gpt", "value": "13.75"}]})";
  }
  static std::string talk(const std::string& question) {
    return "user: " + question + "\nassistant: 13.75\n";
  }

  const trestle::testing::TempDir folder_;
};

// users' pain point 32: data.json is one array.
TEST_F(JsonFiles, AnArrayIsReadAsItsItems) {
  const std::string brackets = R"(]}\"[{,\\)";
  for (const std::string& text : {"[" + row("a") + "," + row("b") + ", " + row(brackets) + "]",
                                  "\xEF\xBB\xBF\n [\r\n" + row("a") + "\n,\n" + row("b") + "\n,\t" +
                                      row(brackets) + "\n]\n\n"}) {
    const auto rows = dataset(text);
    ASSERT_EQ(rows->size(), 3);
    EXPECT_EQ(text_of(rows->row(0)), talk("a"));
    EXPECT_EQ(text_of(rows->row(1)), talk("b"));
    EXPECT_EQ(text_of(rows->row(2)), talk("]}\"[{,\\"));
  }
  // Items that begin, end or lie over the borders of the pieces in which the file is read.
  constexpr size_t kPiece = 1 << 20;
  std::string text = "[";
  std::vector<size_t> lengths;
  while (text.size() < 4 * kPiece) {
    const size_t to_border = kPiece - text.size() % kPiece, empty = row("").size();
    const size_t wanted = std::vector<size_t>{to_border, to_border - 1, to_border + 1,
                                              3 * kPiece / 2}[lengths.size() % 4];
    lengths.push_back(wanted > empty ? wanted - empty : 1);
    text += row(std::string(lengths.back(), ']')) + ",";
  }
  text.back() = ']';
  const auto rows = dataset(text);
  ASSERT_EQ(rows->size(), std::ssize(lengths));
  for (int64_t i = 0; i < rows->size(); ++i) {
    EXPECT_EQ(rows->row(i).messages[0].parts[0].text.size(), lengths[static_cast<size_t>(i)]) << i;
  }
}

TEST_F(JsonFiles, TheMistakeIsNamed) {
  const auto refused = [&](const std::string& text, const std::vector<std::string>& words) {
    expect_mentions(error_of([&] { dataset(text)->row(0); }), words);
  };
  refused("[" + row("a"), {"rows.json", "its array does not end"});
  refused("[" + row("a") + ",," + row("b") + "]", {"item 1 is empty"});
  refused("[" + row("a") + ",]", {"item 1 is empty"});
  refused("[]", {"holds no conversation"});
  refused("[" + row("a") + "]\n[" + row("b") + "]", {"its array ends at byte", "more follows"});
  refused("[{\"messages\": 3}]", {"item 0", "\"messages\" must be a list"});
  refused("[{\"role\": \"user\", \"content\": \"a\"}]", {"item 0: it is a message alone"});
  refused("[{\"messages\": nope}]", {"item 0", "not valid JSON"});
  // One object over several lines.
  refused("{\n  \"messages\": [\n  ]\n}", {"line 1", "one conversation is one line"});
  // What the whole file is, is said once, when it is opened.
  const auto refused_whole = [&](const std::string& text, const std::vector<std::string>& words) {
    expect_mentions(error_of([&] { dataset(text); }), words);
  };
  const std::string list = "[" + row("a") + "]";
  refused_whole("{\"data\": " + list + "}", {"rows.json is one object with rows under \"data\"",
                                             "take the list out, as jq '.[\"data\"]' does"});
  refused_whole("{\n \"version\": \"1\",\n \"data\": " + list + "\n}\n", {"rows under \"data\""});
  refused_whole("{\"train\": " + list + ", \"test\": " + list + ", \"dev\": []}",
                {"rows under \"train\" and \"test\"", "each into a file of its own"});
  for (const char* table : {"question,answer\na,b\n", "\"question\",\"answer\"\r\n\"a\",\"b\"\r\n",
                            "question\tanswer\na\tb\n", "question;answer\na;b"}) {
    refused_whole(table, {"rows.json is a table as CSV, by its first line", "to_json(OUT"});
  }
  // Neither: a line that is none is named.
  refused("question, answer\nnone", {"line 1", "not valid JSON"});
  refused("{\"messages\": nope}\n" + row("a"), {"line 1", "not valid JSON"});
  EXPECT_EQ(dataset(R"({"tools": [{"name": "f"}], "question": "q", "answer": "r"})")->size(), 1);
  refused(std::string("\x1F\x8B\x08\x00", 4), {"gunzip it first"});
  refused("\x28\xB5\x2F\xFD", {"unzstd it first"});
  refused("PAR1....PAR1", {"is Parquet", "dataset.maker_name=parquet"});
  refused(std::string("\xFF\xFE{\x00", 4), {"UTF-16"});
}

TEST_F(JsonFiles, QuestionsAndAnswersAreRowsToo) {
  const auto rows = dataset(R"({"question": "a", "answer": "13.75", "system": "s"})"
                            "\n" +
                            row("b"));
  EXPECT_EQ(text_of(rows->row(0)), "system: s\n" + talk("a"));
  EXPECT_EQ(rows->ground_truth(0), "13.75");
  EXPECT_TRUE(rows->ground_truth(1).is_null());
}

// users' pain point 33: pictures beside the rows that do not open.
TEST_F(JsonFiles, PicturesByFileUrlAndWithAColon) {
  for (const char* name : {"a.png", "scan 2026-02-01T12:30:05.png", "a b%.png", "c%20d.png"}) {
    std::filesystem::copy(kPicture, folder_ / name);
  }
  const std::string here = folder_.path().string();
  const Processor processor("../assets/demo/model");
  const auto load = [&](const std::string& source) {
    const auto rows = dataset(
        R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": ")" +
        source +
        R"("}}, {"type": "text", "text": "?"}]}, {"role": "assistant", "content": "a"}]})");
    return processor.process(rows->row(0), Ending::kSample).images_CHW.size();
  };
  for (const char* source :
       {"a.png", "scan 2026-02-01T12:30:05.png", "file://a.png", "FILE://a.png",
        "file:///HERE/a.png", "file://localhost/HERE/a.png", "file:/HERE/a.png",
        "file:///HERE/scan 2026-02-01T12:30:05.png",
        "file:///HERE/scan%202026-02-01T12%3A30%3A05.png", "a b%.png", "file:///HERE/a b%.png",
        "file://a%20b%25.png", "c%20d.png", "file://c%20d.png"}) {
    std::string whole = source;
    if (const size_t at = whole.find("/HERE"); at != whole.npos) whole.replace(at, 5, here);
    EXPECT_EQ(load(whole), 1u) << whole;
  }
  expect_mentions(error_of([&] { load("ftp://example.org/a.png"); }),
                  {"ftp://example.org/a.png", "only file://, http:// and https:// are read"});
  expect_mentions(error_of([&] { load("file:///absent/a.png"); }), {"/absent/a.png"});
}

// users' pain point 34: Parquet in another layout than pyarrow's.
TEST(Polars, WritesWhatEveryMakerReads) {
  const std::pair<const char*, const char*> makers[] = {{"messages", "parquet"},
                                                        {"cord", "make_cord_v2_dataset"},
                                                        {"medpix", "make_medpix_dataset"},
                                                        {"raven", "make_raven_dataset"}};
  for (const auto& [name, maker] : makers) {
    const auto open = [&](const char* writer) {
      return make_dataset(maker, fmt::format("data/polars/{}.{}.parquet", name, writer), "");
    };
    const auto wanted = open("pyarrow");
    for (const char* writer : {"polars", "polars138"}) {
      const auto rows = open(writer);
      ASSERT_EQ(rows->size(), wanted->size());
      ASSERT_GT(rows->size(), 0);
      for (int64_t row = 0; row < rows->size(); ++row) {
        EXPECT_EQ(text_of(rows->row(row)), text_of(wanted->row(row))) << name << writer;
        EXPECT_EQ(rows->ground_truth(row), wanted->ground_truth(row)) << name << writer;
      }
    }
  }
}

}  // namespace
}  // namespace trestle
