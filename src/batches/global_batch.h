// The samples of a step, each with one of the ranks that learn from different rows. Which samples
// those are is settled by the stream alone, whatever the number of ranks. Called by the trainer.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "batches/sample_stream.h"
#include "parallel/group.h"

namespace trestle {

struct GlobalBatch {
  /// This rank's, and their rows.
  std::vector<Sample> samples;
  std::vector<int64_t> rows;
  /// Of all ranks, in the order of the stream.
  std::vector<int64_t> all_rows;
  int64_t targets = 0, tokens = 0, images = 0;
};

class GlobalBatches {
 public:
  struct Options {
    /// The ranks that share the samples, on the CPU's backend.
    Group ranks = {};
    /// Of each of them its number in the whole run, for messages.
    std::vector<int64_t> names = {0};
    /// Throws UserError for a sample that cannot be taken.
    std::function<void(const SampleStream::Taken&)> check = {};
    /// By which samples are levelled over the ranks; without it each keeps those that it made.
    std::function<int64_t(const Sample&)> cost = {};
  };

  /// The stream's rank and ranks are those of the group; it must live as long.
  GlobalBatches(SampleStream& stream, Options options);

  /// The next `size` positions that are not dropped. Throws as SampleStream::next does; of several
  /// ranks on all of them, AgreedError naming rank and row.
  GlobalBatch next(int64_t size);
  /// Behind the last of them: where a run goes on, with any number of ranks.
  int64_t position() const { return position_; }

 private:
  /// A sample as every rank knows it. Of a position that is not kept nothing but `state`.
  struct Entry {
    enum State : int64_t { kKept, kDropped, kUserError, kFailed };
    int64_t state = kDropped, row = 0, tokens = 0, targets = 0, images = 0, cost = 0, bytes = 0;
  };
  static constexpr int64_t kNumbers = sizeof(Entry) / sizeof(int64_t);
  struct Mine {
    Entry entry;
    SampleStream::Slot slot;
  };

  int64_t maker_of(int64_t position) const { return position % options_.ranks.size(); }
  Mine draw();
  std::vector<Mine> draw_until(int64_t end);
  std::vector<Entry> gather(const std::vector<Mine>& mine, int64_t begin, int64_t end) const;
  /// Samples go from those that made them to those that take them.
  void exchange(GlobalBatch& batch, const std::vector<Entry>& kept,
                const std::vector<int64_t>& makers) const;
  [[noreturn]] void fail(const std::vector<Mine>& mine, int64_t position, Entry entry) const;

  SampleStream& stream_;
  Options options_;
  int64_t position_;
  int64_t dropped_on_end_ = 0;
};

}  // namespace trestle
