// People's own data: JSON lines, Parquet and WebDataset (tools/make_dataset_goldens.py), and the
// spellings of pictures.
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "base/base64.h"
#include "base/file.h"
#include "data/datasets.h"
#include "data/processor.h"
#include "data/testing.h"
#include "errors.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::TempDir;
using testing::text_of;

const std::filesystem::path kFolder = "data/golden";
const std::string kPicture = "image/golden/exact_28x56.png";

std::vector<ImageRef> pictures_of(const Conversation& conversation) {
  std::vector<ImageRef> pictures;
  for (const Message& message : conversation.messages) {
    for (const Part& part : message.parts) {
      if (part.kind == Part::Kind::kImage) pictures.push_back(part.image);
    }
  }
  return pictures;
}

class Lines : public testing::InDirectory<> {
 protected:
  std::unique_ptr<Dataset> dataset(const std::string& text) {
    std::ofstream(directory_ / "rows.jsonl", std::ios::binary) << text;
    return make_dataset("jsonl", directory_ / "rows.jsonl", "train");
  }
  static std::string row(const std::string& content) {
    return fmt::format(
        R"({{"messages": [{{"role": "user", "content": {}}}, {{"role": "assistant", "content": "b"}}]}})"
        "\n",
        content);
  }
};

TEST_F(Lines, EmptyOnesAreLeftOutAndCounted) {
  const auto rows =
      dataset(fmt::format("\n{} \t\r\n{}\n{{\"messages\": 3}}", row("\"a\""), row("\"b\"")));
  ASSERT_EQ(rows->size(), 3);
  EXPECT_EQ(text_of(rows->row(1)), "user: b\nassistant: b\n");
  EXPECT_EQ(text_of(rows->row(0)), "user: a\nassistant: b\n");
  EXPECT_REFUSED(rows->row(2), "rows.jsonl line 6", "\"messages\" must be a list");
  EXPECT_REFUSED(dataset("\n \n"), "holds no conversation");
  EXPECT_REFUSED(dataset(""), "holds no conversation");
}

// Lines that begin, end or lie whole over the borders of the pieces in which the file is read.
TEST_F(Lines, OverTheBordersOfPieces) {
  constexpr size_t kPiece = 1 << 20;
  std::string text;
  std::vector<size_t> lengths;
  while (text.size() < 5 * kPiece) {
    const size_t to_border = kPiece - text.size() % kPiece;
    const size_t empty = row("\"\"").size();
    // Up to the border, one byte short of it, one over it, and long.
    const size_t wanted = std::vector<size_t>{to_border, to_border - 1, to_border + 1,
                                              3 * kPiece / 2}[lengths.size() % 4];
    lengths.push_back(wanted > empty ? wanted - empty : 1);
    text += row(fmt::format("\"{}\"", std::string(lengths.back(), 'x')));
  }
  const auto rows = dataset(text);
  ASSERT_EQ(rows->size(), std::ssize(lengths));
  for (int64_t i = 0; i < rows->size(); ++i) {
    EXPECT_EQ(rows->row(i).messages[0].parts[0].text.size(), lengths[static_cast<size_t>(i)]) << i;
  }
}

TEST_F(Lines, EverySpellingOfAPicture) {
  std::filesystem::copy(kPicture, directory_ / "p.png");
  const std::string bare = base64(read_text(kPicture)), uri = "data:image/png;base64," + bare;
  const std::string path = (directory_ / "p.png").string();
  std::string text = row("\"only words\"");
  std::vector<std::string> parts = {
      R"({"type": "image", "path": "p.png"})",
      R"({"type": "image", "image": "p.png"})",
      R"({"type": "image", "url": ")" + path + "\"}",
      R"({"type": "image", "base64": ")" + bare + "\"}",
      R"({"type": "image", "base64": ")" + uri + "\"}",
      R"({"type": "image", "image": ")" + bare + "\"}",
      R"({"type": "image", "image": ")" + uri + "\"}",
      R"({"type": "image", "image": {"path": "p.png"}})",
      R"({"type": "image_url", "image_url": ")" + uri + "\"}",
      R"({"type": "image_url", "image_url": {"url": ")" + uri + "\"}}",
      R"({"type": "image", "image": {"bytes": ")" + bare + "\", \"path\": null}}"};
  for (const std::string& part : parts) text += row("[" + part + "]");
  const auto rows = dataset(text);
  const Processor processor("../assets/demo/model");
  ASSERT_EQ(rows->size(), std::ssize(parts) + 1);
  EXPECT_TRUE(processor.process(rows->row(0), Ending::kSample).images_CHW.empty());
  for (int64_t i = 1; i < rows->size(); ++i) {
    const Sample sample = processor.process(rows->row(i), Ending::kSample);
    ASSERT_EQ(sample.images_CHW.size(), 1u) << parts[static_cast<size_t>(i) - 1];
    EXPECT_EQ(sample.images_CHW[0].size(1), 28);
    EXPECT_EQ(sample.images_CHW[0].size(2), 56);
  }
  for (const std::string bad :
       {R"({"type": "image", "image": 3})", R"({"type": "image", "image": {"file": "a"}})"}) {
    const auto one = dataset(row("[" + bad + "]"));
    EXPECT_REFUSED(one->row(0), "line 1", "a picture");
  }
}

TEST(OwnParquet, PartsWithPicturesAndRowsWithout) {
  const auto rows = make_dataset("parquet", kFolder / "own-parts.parquet", "");
  ASSERT_EQ(rows->size(), 2);
  EXPECT_EQ(text_of(rows->row(0)), "user: <image>Which colour?\nassistant: Green.\n");
  EXPECT_EQ(text_of(rows->row(1)), "user: And grass?\nassistant: Green.\n");
  const auto pictures = pictures_of(rows->row(0));
  ASSERT_TRUE(pictures.at(0).bytes);
  EXPECT_TRUE(pictures[0].bytes->starts_with("\x89PNG"));
  EXPECT_TRUE(rows->ground_truth(0).is_null());
}

TEST(OwnParquet, TurnsAndAColumnOfPictures) {
  const auto rows = make_dataset("parquet", kFolder / "own-turns.parquet", "");
  ASSERT_EQ(rows->size(), 3);
  EXPECT_EQ(text_of(rows->row(0)), "user: <image>Which?\nassistant: This.\n");
  EXPECT_TRUE(pictures_of(rows->row(0)).at(0).bytes);
  // No bytes: the path counts from the file's folder.
  const auto named = pictures_of(rows->row(1));
  EXPECT_FALSE(named.at(0).bytes);
  EXPECT_TRUE(std::filesystem::equivalent(named[0].source, kPicture));
  EXPECT_EQ(text_of(rows->row(2)), "user: None?\nassistant: This.\n");
}

TEST(OwnParquet, JsonText) {
  const auto rows = make_dataset("parquet", kFolder / "own-json.parquet", "");
  ASSERT_EQ(rows->size(), 3);
  EXPECT_EQ(text_of(rows->row(0)), "user: <image>Call it.\nassistant: Done.\n");
  EXPECT_EQ(rows->row(0).tools.at(0).at("function").at("name"), "f");
  EXPECT_TRUE(std::filesystem::equivalent(pictures_of(rows->row(0)).at(0).source, kPicture));
  EXPECT_EQ(text_of(rows->row(2)), "user: Call it.\nassistant: Done.\n");
  EXPECT_TRUE(rows->row(2).tools.is_null());
}

TEST(OwnParquet, QuestionAndAnswerFromADirectory) {
  const auto rows = make_dataset("parquet", kFolder, "vqa-train");
  ASSERT_EQ(rows->size(), 2);
  EXPECT_EQ(text_of(rows->row(0)), "user: <image><image>How many?\nassistant: Two\n");
  EXPECT_EQ(text_of(rows->row(1)), "user: Who?\nassistant: Nobody\n");
  EXPECT_EQ(rows->ground_truth(0), "Two");
}

TEST(OwnParquet, OtherColumnsAreNamed) {
  EXPECT_REFUSED(make_dataset("parquet", "data/polars/cord.pyarrow.parquet", ""), "cord.pyarrow",
                 "neither messages", "image, ground_truth");
}

void expect_equal_from_many_threads(const Dataset& rows) {
  std::vector<std::string> wanted;
  for (int64_t row = 0; row < rows.size(); ++row) wanted.push_back(text_of(rows.row(row)));
  ASSERT_GT(wanted.size(), 1u);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < wrong.size(); ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t i = 0; i < 60; ++i) {
        const size_t row = (i + thread) % wanted.size();
        wrong[thread] += text_of(rows.row(static_cast<int64_t>(row))) != wanted[row];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(OwnData, IsReadFromManyThreads) {
  // Row groups hold two rows, so that threads disagree on which is to be in memory.
  expect_equal_from_many_threads(*make_dataset("parquet", kFolder / "own-turns.parquet", ""));
  expect_equal_from_many_threads(*make_dataset("webdataset", kFolder, "web-train"));
  const TempDir directory;
  std::ofstream file(directory / "lines.jsonl");
  for (int i = 0; i < 30; ++i) {
    file
        << R"({"messages": [{"role": "user", "content": "count"}, {"role": "assistant", "content": ")"
        << std::string(static_cast<size_t>(1 + i * i), 'a') << "\"}]}\n";
  }
  file.close();
  expect_equal_from_many_threads(*make_dataset("jsonl", directory / "lines.jsonl", ""));
}

TEST(WebDatasets, SamplesOfADirectoryAndOfAPattern) {
  for (const std::filesystem::path& path : {kFolder, kFolder / "web-train-{000000..000001}.tar"}) {
    const auto rows = make_dataset("webdataset", path, "web-train");
    ASSERT_EQ(rows->size(), 4) << path;
    EXPECT_EQ(text_of(rows->row(0)), "user: <image>How many?\nassistant: Two.\n");
    // One picture is named, the other takes the place that names none.
    EXPECT_EQ(text_of(rows->row(1)), "user: <image>First?<image>\nassistant: Yes.\n");
    const auto pictures = pictures_of(rows->row(1));
    EXPECT_TRUE(pictures.at(0).source.ends_with("b.2.png")) << pictures[0].source;
    EXPECT_TRUE(pictures.at(1).source.ends_with("b.1.png")) << pictures[1].source;
    EXPECT_NE(*pictures[0].bytes, *pictures[1].bytes);
    EXPECT_EQ(text_of(rows->row(2)),
              "user: <image>Describe this image.\nassistant: A square, grün.\n");
    EXPECT_EQ(rows->ground_truth(2), "A square, grün.");
    EXPECT_EQ(text_of(rows->row(3)), "user: Why?\nassistant: So.\n");
    EXPECT_EQ(rows->ground_truth(3), "So.");
    EXPECT_TRUE(rows->ground_truth(0).is_null());
  }
}

TEST(WebDatasets, WhatIsNoSampleIsNamed) {
  EXPECT_REFUSED(make_dataset("webdataset", kFolder, "validation"),
                 "no .tar file of split 'validation'", "it has those of train");
  EXPECT_REFUSED(make_dataset("webdataset", kFolder / "web-train-{000001..000002}.tar", ""),
                 "cannot open", "web-train-000002.tar");
  // Members of one key that have neither text nor conversation.
  const auto rows = make_dataset("webdataset", kFolder / "gnu.tar", "");
  EXPECT_REFUSED(rows->row(2), "sample block", "neither .json nor .txt");
  EXPECT_REFUSED(rows->row(0), "sample folder/a", "no picture");
}

}  // namespace
}  // namespace trestle
