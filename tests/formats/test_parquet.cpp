#include <gtest/gtest.h>

#include "base/error.h"
#include "errors.h"
#include "formats/parquet.h"

namespace trestle {
namespace {

// The fuzzers' seeds are files of the real writer.
const std::filesystem::path kSeeds = "../fuzz/seeds/parquet";
const std::vector<std::string> kColumns = {"image.bytes", "ground_truth"};

void expect_refused(const std::filesystem::path& path, const std::string& message) {
  EXPECT_NE(message.find(path.string() + ": cannot be read as Parquet"), std::string::npos)
      << message;
}

TEST(Parquet, RowsInOneGroupOrSeveral) {
  for (const char* name : {"plain", "snappy", "groups"}) {
    const ParquetFile file(kSeeds / name, kColumns);
    ASSERT_EQ(file.rows(), 3) << name;
    EXPECT_EQ(file.bytes(0, 0), "picture");
    EXPECT_EQ(file.bytes(1, 0), R"({"gt_parse": {"total": "1"}})");
    // A null field, and a field of a null struct.
    EXPECT_FALSE(file.bytes(0, 1));
    EXPECT_FALSE(file.bytes(0, 2));
    EXPECT_FALSE(file.bytes(1, 2));
    EXPECT_NE(error_of([&] { file.bytes(0, 3); }).find("3 rows"), std::string::npos);
    EXPECT_NE(error_of([&] { file.bytes(0, -1); }).find("3 rows"), std::string::npos);
    EXPECT_NE(error_of([&] { file.integer(0, 0); }).find("no integer"), std::string::npos);
  }
  EXPECT_NE(error_of([] { ParquetFile(kSeeds / "plain", {"labels"}); }).find("labels"),
            std::string::npos);
}

// 768 bytes whose footer claims 79,557,490,301 rows: Arrow would ask for gigabytes.
TEST(Parquet, RowsThatAFileCannotHoldAreRefused) {
  const std::string message = error_of([] { ParquetFile(kSeeds / "found_rows", kColumns); });
  EXPECT_NE(message.find("79557490301 rows in a file of 768 bytes"), std::string::npos) << message;
}

// 1288 bytes whose footer claims a text of 69,159,604 bytes: Thrift would make room for it.
TEST(Parquet, TextsThatAFooterCannotHoldAreRefused) {
  const std::filesystem::path path = kSeeds / "found_footer_text";
  expect_refused(path, error_of([&] { ParquetFile(path, kColumns); }));
  expect_refused(path, error_of([&] { parquet_columns(path); }));
}

}  // namespace
}  // namespace trestle
