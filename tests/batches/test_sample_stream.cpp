// The samples of a run: the same whatever the threads do, shared by ranks, gone on with from a
// position; and which of them share a forward.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "batches/sample_stream.h"
#include "errors.h"

namespace trestle {
namespace {

// Row n is an answer of n + 1 letters; every third row has a picture.
class Letters : public Dataset {
 public:
  explicit Letters(int64_t rows, int64_t bad_row = -1) : rows_(rows), bad_row_(bad_row) {}
  int64_t size() const override { return rows_; }
  std::vector<std::filesystem::path> files() const override { return {}; }
  Conversation row(int64_t index) const override {
    if (index == bad_row_) user_error("letters row {} is torn", index);
    Message user = text_message(Role::kUser, "count");
    if (index % 3 == 0) {
      Part picture{.kind = Part::Kind::kImage};
      picture.image.source = "image/golden/29x29.png";
      user.parts.insert(user.parts.begin(), picture);
    }
    return {
        {user, text_message(Role::kAssistant, std::string(static_cast<size_t>(index + 1), 'z'))},
        nullptr};
  }

 private:
  int64_t rows_, bad_row_;
};

class SampleStreams : public ::testing::Test {
 protected:
  static StreamOptions options(int64_t workers, int64_t start = 0) {
    StreamOptions options;
    options.seed = 7;
    options.max_length = 4096;
    options.workers = workers;
    options.start = start;
    options.name = "letters";
    return options;
  }

  std::vector<SampleStream::Taken> take(const Dataset& dataset, const StreamOptions& options,
                                        int64_t count) const {
    SampleStream stream(dataset, processor_, options);
    std::vector<SampleStream::Taken> taken;
    for (int64_t i = 0; i < count; ++i) taken.push_back(stream.next());
    return taken;
  }

  static std::vector<int64_t> rows(const std::vector<SampleStream::Taken>& taken) {
    std::vector<int64_t> rows;
    for (const auto& each : taken) rows.push_back(each.row);
    return rows;
  }

  const Processor processor_{"../assets/demo/model"};
};

TEST_F(SampleStreams, ThreadsChangeNothing) {
  const Letters dataset(11);
  const auto alone = take(dataset, options(0), 40);
  for (const int64_t workers : {1, 2, 7}) {
    const auto together = take(dataset, options(workers), 40);
    ASSERT_EQ(rows(together), rows(alone)) << workers;
    for (size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(together[i].sample.ids, alone[i].sample.ids);
      EXPECT_EQ(together[i].sample.labels, alone[i].sample.labels);
      ASSERT_EQ(together[i].sample.images_CHW.size(), alone[i].sample.images_CHW.size());
      for (size_t k = 0; k < alone[i].sample.images_CHW.size(); ++k) {
        EXPECT_TRUE(at::equal(together[i].sample.images_CHW[k], alone[i].sample.images_CHW[k]));
      }
    }
  }
}

TEST_F(SampleStreams, EachEpochTakesEveryRowOnceInAnotherOrder) {
  const auto taken = rows(take(Letters(11), options(2), 22));
  for (const auto first : {taken.begin(), taken.begin() + 11}) {
    EXPECT_EQ(std::set<int64_t>(first, first + 11).size(), 11u);
  }
  EXPECT_FALSE(std::equal(taken.begin(), taken.begin() + 11, taken.begin() + 11));
}

TEST_F(SampleStreams, GoesOnFromAPosition) {
  const Letters dataset(11);
  const auto whole = rows(take(dataset, options(2), 30));
  SampleStream begun(dataset, processor_, options(3));
  for (int64_t i = 0; i < 17; ++i) begun.next();
  EXPECT_EQ(begun.position(), 17);
  const auto rest = rows(take(dataset, options(2, begun.position()), 13));
  EXPECT_TRUE(std::equal(rest.begin(), rest.end(), whole.begin() + 17));
}

TEST_F(SampleStreams, DroppedRowsAreInThePosition) {
  const Letters dataset(12);
  StreamOptions dropping = options(2);
  dropping.overlong = Overlong::kDrop;
  // Room for an answer of nine letters without a picture; those of more, or with one, are longer.
  const Sample nine = processor_.process(dataset.row(8), Ending::kSample);
  dropping.max_length = std::ssize(nine.ids);
  std::set<int64_t> wanted, kept;
  for (int64_t row = 0; row < dataset.size(); ++row) {
    const Sample sample = processor_.process(dataset.row(row), Ending::kSample);
    if (std::ssize(sample.ids) <= dropping.max_length) wanted.insert(row);
  }
  ASSERT_TRUE(wanted.contains(8) && !wanted.contains(11));
  SampleStream stream(dataset, processor_, dropping);
  while (true) {
    const SampleStream::Taken taken = stream.next();
    if (stream.position() > dataset.size()) break;  // the next epoch
    EXPECT_TRUE(kept.insert(taken.row).second);
  }
  EXPECT_EQ(kept, wanted);
  dropping.max_length = 2;
  EXPECT_REFUSED(take(dataset, dropping, 1),
                 "every row of letters is longer than model.seq_length=2");
}

TEST_F(SampleStreams, RanksShareTheSamples) {
  const Letters dataset(11);
  const auto whole = rows(take(dataset, options(0), 24));
  for (const int64_t ranks : {2, 3, 4}) {
    std::vector<int64_t> shared(24);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      StreamOptions mine = options(2);
      mine.rank = rank;
      mine.ranks = ranks;
      SampleStream stream(dataset, processor_, mine);
      for (int64_t i = 0; i < 24 / ranks; ++i) {
        shared[static_cast<size_t>(i * ranks + rank)] = stream.next().row;
      }
      EXPECT_EQ(stream.position(), 24 + rank);
    }
    EXPECT_EQ(shared, whole) << ranks;
  }
}

TEST_F(SampleStreams, ATornRowIsAnErrorWhereItsTurnIs) {
  const Letters whole(11), torn(11, 4);
  for (const int64_t workers : {0, 3}) {
    const auto order = rows(take(whole, options(workers), 11));
    const auto turn = std::ranges::find(order, 4) - order.begin();
    SampleStream stream(torn, processor_, options(workers));
    for (std::ptrdiff_t i = 0; i < turn; ++i) {
      EXPECT_EQ(stream.next().row, order[static_cast<size_t>(i)]);
    }
    EXPECT_REFUSED(stream.next(), "letters row 4 is torn");
  }
}

TEST_F(SampleStreams, TheCallersThreadsStayAsTheyWere) {
  // Another number than a worker's own, whatever the tests are run with.
  const int as_it_was = at::get_num_threads();
  at::set_num_threads(3);
  const int before = at::get_num_threads();
  ASSERT_EQ(before, 3);
  const Letters dataset(5);
  SampleStream stream(dataset, processor_, options(4));
  stream.next();
  EXPECT_EQ(at::get_num_threads(), before);
  int later = 0;
  std::thread([&] { later = at::get_num_threads(); }).join();
  EXPECT_EQ(later, before);
  at::set_num_threads(as_it_was);
}

TEST(Groups, AreNeighboursOrPackedByLength) {
  using Groups = std::vector<std::vector<size_t>>;
  EXPECT_EQ(consecutive_groups(5, 2), (Groups{{0, 1}, {2, 3}, {4}}));
  EXPECT_EQ(packed_groups({3, 7, 3, 5, 2}, 10), (Groups{{1, 0}, {3, 2, 4}}));
  EXPECT_EQ(packed_groups({12, 4}, 10), (Groups{{0}, {1}}));
  EXPECT_TRUE(packed_groups({}, 10).empty());
}

TEST(Groups, HoldEverySampleOnceAndNoMoreThanTheCapacity) {
  std::mt19937_64 random(3);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<int64_t> lengths;
    const uint64_t count = 1 + random() % 40;
    for (uint64_t i = 0; i < count; ++i) {
      lengths.push_back(1 + static_cast<int64_t>(random() % 100));
    }
    const auto groups = packed_groups(lengths, 100);
    std::set<size_t> seen;
    size_t half_empty = 0;
    for (const auto& group : groups) {
      int64_t tokens = 0;
      for (const size_t i : group) {
        tokens += lengths[i];
        EXPECT_TRUE(seen.insert(i).second);
      }
      EXPECT_LE(tokens, 100);
      half_empty += tokens <= 50;
    }
    EXPECT_EQ(seen.size(), lengths.size());
    // Two half empty ones would have gone together.
    EXPECT_LE(half_empty, 1u);
  }
}

}  // namespace
}  // namespace trestle
