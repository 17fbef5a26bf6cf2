#include <gtest/gtest.h>

#include "errors.h"
#include "parquet/parquet.h"

namespace trestle {
namespace {

// The fuzzers' seeds are files of the real writer.
const std::filesystem::path kSeeds = "../fuzz/seeds/parquet";
const std::vector<std::string> kColumns = {"image.bytes", "ground_truth"};

TEST(Parquet, RowsInOneGroupOrSeveral) {
  for (const char* name : {"plain", "snappy", "groups"}) {
    const ParquetFile file(kSeeds / name, kColumns);
    ASSERT_EQ(file.rows(), 3) << name;
    EXPECT_EQ(file.row(0).bytes(0), "picture");
    EXPECT_EQ(file.row(0).bytes(1), R"({"gt_parse": {"total": "1"}})");
    // A null field, and a field of a null struct.
    EXPECT_FALSE(file.row(1).bytes(0));
    EXPECT_FALSE(file.row(2).bytes(0));
    EXPECT_FALSE(file.row(2).bytes(1));
    EXPECT_REFUSED(file.row(3).bytes(0), "3 rows");
    EXPECT_REFUSED(file.row(-1).bytes(0), "3 rows");
    EXPECT_REFUSED(file.row(0).integer(0), "no integer");
  }
  EXPECT_REFUSED(ParquetFile(kSeeds / "plain", {"labels"}), "labels");
}

// 768 bytes whose footer claims 79,557,490,301 rows: Arrow would ask for gigabytes.
TEST(Parquet, RowsThatAFileCannotHoldAreRefused) {
  EXPECT_REFUSED(ParquetFile(kSeeds / "found_rows", kColumns),
                 "79557490301 rows in a file of 768 bytes");
}

// 1288 bytes whose footer claims a text of 69,159,604 bytes: Thrift would make room for it.
TEST(Parquet, TextsThatAFooterCannotHoldAreRefused) {
  const std::filesystem::path path = kSeeds / "found_footer_text";
  EXPECT_REFUSED(ParquetFile(path, kColumns), path.string() + ": cannot be read as Parquet");
  EXPECT_REFUSED(parquet_columns(path), path.string() + ": cannot be read as Parquet");
}

}  // namespace
}  // namespace trestle
