// How often a row group is decoded, and what becomes of it: rows in random order decode each once.
#include <arrow/api.h>
#include <arrow/io/file.h>
#include <gtest/gtest.h>
#include <parquet/arrow/writer.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <random>
#include <thread>

#include "errors.h"
#include "parquet/parquet.h"
#include "parquet/parquet_store.h"
#include "temp_dir.h"

namespace trestle {
namespace {

constexpr int64_t kGroups = 5, kRowsOfGroup = 40, kRows = kGroups * kRowsOfGroup;
// A text is 300 bytes on average, a group's are at most 40 * 399.
constexpr int64_t kRoomForTwo = 2 * kRowsOfGroup * 410;

std::string text_of_row(int64_t row) {
  return std::string(static_cast<size_t>(200 + row), static_cast<char>('a' + row % 26));
}

class Store : public ::testing::Test {
 protected:
  Store() {
    arrow::StringBuilder texts;
    for (int64_t row = 0; row < kRows; ++row) EXPECT_TRUE(texts.Append(text_of_row(row)).ok());
    const auto table = arrow::Table::Make(arrow::schema({arrow::field("t", arrow::utf8())}),
                                          {texts.Finish().ValueOrDie()});
    auto file = arrow::io::FileOutputStream::Open(path_.string()).ValueOrDie();
    EXPECT_TRUE(
        parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), file, kRowsOfGroup).ok());
    EXPECT_TRUE(file->Close().ok());
  }

  static std::vector<int64_t> shuffled(uint64_t seed) {
    std::vector<int64_t> order(kRows);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
    return order;
  }

  static void read(const ParquetFile& file, const std::vector<int64_t>& order) {
    for (const int64_t row : order) {
      ASSERT_EQ(file.row(row).bytes(0), text_of_row(row)) << row;
    }
  }

  const trestle::testing::TempDir folder_;
  const std::filesystem::path path_ = folder_ / "groups.parquet";
};

TEST_F(Store, RowsInRandomOrderDecodeEachGroupOnce) {
  // Room for all of them, for two, and for none beside the one that is read.
  for (const int64_t bytes : {int64_t{1} << 20, kRoomForTwo, int64_t{0}}) {
    const auto store = std::make_shared<GroupStore>(bytes, folder_.path(), 0);
    const ParquetFile file(path_, {"t"}, store);
    read(file, shuffled(1));
    read(file, shuffled(2));
    EXPECT_EQ(store->decoded(), kGroups) << bytes;
    // The last group stays in memory.
    if (bytes != kRoomForTwo) {
      EXPECT_EQ(store->spilled(), bytes == 0 ? kGroups - 1 : 0);
    } else {
      EXPECT_GE(store->spilled(), 1);
      EXPECT_LT(store->spilled(), kGroups - 1);
    }
  }
  // Nothing is left of the files.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(Store, RowsInOrderWriteNothing) {
  const auto store = std::make_shared<GroupStore>(0, folder_.path(), 0);
  const ParquetFile file(path_, {"t"}, store);
  std::vector<int64_t> order(kRows);
  std::iota(order.begin(), order.end(), 0);
  read(file, order);
  read(file, order);
  EXPECT_EQ(store->decoded(), 2 * kGroups);
  EXPECT_EQ(store->spilled(), 0);
}

// What counts as read through is what was read since the group was decoded.
TEST_F(Store, AGroupThatIsReadThroughAgainIsDroppedAgain) {
  const auto store = std::make_shared<GroupStore>(0, folder_.path(), 0);
  const ParquetFile file(path_, {"t"}, store);
  std::vector<int64_t> first(kRowsOfGroup);
  std::iota(first.begin(), first.end(), 0);
  read(file, first);
  read(file, {kRowsOfGroup});  // the first is dropped
  EXPECT_EQ(store->decoded(), 2);
  EXPECT_EQ(store->spilled(), 0);
  first.pop_back();
  read(file, first);  // and the second, of which a row was read, goes to a file
  EXPECT_EQ(store->decoded(), 3);
  EXPECT_EQ(store->spilled(), 1);
  read(file, {2 * kRowsOfGroup});  // as does the first, of which a row is left
  EXPECT_EQ(store->spilled(), 2);
  read(file, {kRowsOfGroup - 1});
  EXPECT_EQ(store->decoded(), 4);
}

TEST_F(Store, SeveralThreadsDecodeNoGroupTwice) {
  for (const int64_t bytes : {int64_t{1} << 20, int64_t{0}}) {
    const auto store = std::make_shared<GroupStore>(bytes, folder_.path(), 0);
    const ParquetFile file(path_, {"t"}, store);
    {
      std::vector<std::jthread> threads;
      for (uint64_t seed = 0; seed < 6; ++seed) {
        threads.emplace_back([&file, seed] { read(file, shuffled(seed)); });
      }
    }
    EXPECT_EQ(store->decoded(), kGroups);
  }
}

// Two stores' files: what one file's rows push out is the other's.
TEST_F(Store, IsSharedByFiles) {
  const auto store = std::make_shared<GroupStore>(0, folder_.path(), 0);
  const ParquetFile file(path_, {"t"}, store);
  {
    const ParquetFile other(path_, {"t"}, store);
    read(other, {0});
    read(file, {0});
    EXPECT_EQ(store->spilled(), 1);
    read(other, {1, 2, 3});
    EXPECT_EQ(store->decoded(), 2);
  }
  read(file, shuffled(3));
  EXPECT_EQ(store->decoded(), 1 + kGroups);
}

// No such folder, and no disk that is so large.
TEST_F(Store, WithoutRoomRowsAreReadAllTheSame) {
  const std::string missing = folder_ / "missing";
  for (const auto& [folder, spare] :
       {std::pair(missing, int64_t{0}), std::pair(folder_.path().string(), int64_t{1} << 60)}) {
    const auto store = std::make_shared<GroupStore>(0, folder, spare);
    const ParquetFile file(path_, {"t"}, store);
    ::testing::internal::CaptureStderr();
    read(file, shuffled(1));
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
    testing::expect_mentions(said, {path_.string(), folder, "TMPDIR"});
    EXPECT_GT(store->decoded(), kRows / 2);
    EXPECT_EQ(store->spilled(), 0);
  }
}

// A group that cannot be decoded is refused each time, and others are read as before.
TEST_F(Store, ADamagedGroupIsRefusedEachTime) {
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(8);
  file << std::string(64, '\xff');
  file.close();
  const auto store = std::make_shared<GroupStore>(0, folder_.path(), 0);
  const ParquetFile damaged(path_, {"t"}, store);
  EXPECT_REFUSED(damaged.row(0), "cannot be read as Parquet");
  EXPECT_EQ(damaged.row(kRows - 1).bytes(0), text_of_row(kRows - 1));
  EXPECT_REFUSED(damaged.row(1), "cannot be read as Parquet");
}

}  // namespace
}  // namespace trestle
