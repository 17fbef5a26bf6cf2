// The samples of a run, one after another, processed ahead of their use on threads of their own.
// Called by the trainer.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "data/batch.h"
#include "data/blend.h"
#include "data/datasets.h"
#include "data/overlong.h"

namespace trestle {

struct StreamOptions {
  uint64_t seed = 0;
  bool shuffle = true;
  /// Longest sample in tokens, and what becomes of a longer one.
  int64_t max_length = 0;
  Overlong overlong = Overlong::kError;
  /// Threads that process samples ahead; 0: each when it is asked for.
  int64_t workers = 0;
  /// This process and how many share the samples: position p is that of rank p % ranks.
  int64_t rank = 0, ranks = 1;
  /// The position to go on from; ranks may be others than they were before it.
  int64_t start = 0;
  /// Of the data set's parts; not behind `start`.
  BlendStart blend_start = {};
  /// Of the data set, for messages: "row N of NAME".
  std::string name;
};

/// Which sample comes when is settled by the options and the parts of the data set alone
/// (BlendOrder) and not by the threads, so that a run goes on from a position to the bit.
class SampleStream {
 public:
  struct Taken {
    /// Of the data set.
    int64_t row = 0;
    Sample sample;
  };

  /// Keeps references to the data set, whose row() must bear several threads, and the processor.
  /// Throws MachineError where the system does not start so many threads.
  SampleStream(const Dataset& dataset, const Processor& processor, StreamOptions options);
  ~SampleStream();
  SampleStream(const SampleStream&) = delete;
  SampleStream& operator=(const SampleStream&) = delete;

  /// What is at one position.
  struct Slot {
    int64_t row = 0;
    std::optional<Sample> sample;  // none: dropped
    std::exception_ptr error;
  };

  /// The next sample; dropped ones are passed over. Throws what processing it threw, a UserError
  /// naming the row, and one where every row is dropped.
  Taken next();
  /// What is at position(), which is behind it then the next of this rank's.
  Slot draw();
  /// The first of this rank's positions that is not drawn: of one rank the start of a stream that
  /// goes on.
  int64_t position() const { return first_ + taken_ * options_.ranks; }
  const StreamOptions& options() const { return options_; }
  /// So many positions on end come by every row.
  int64_t samples_for_all() const { return samples_for_all_; }
  /// UserError: so many of them were dropped.
  [[noreturn]] void every_row_is_dropped() const;

 private:
  /// Of the n-th sample of this stream.
  int64_t row_of(int64_t n);
  Slot make(int64_t row) const;
  void work();
  void stop();

  const Dataset& dataset_;
  const Processor& processor_;
  StreamOptions options_;
  int64_t first_;  // of this rank's positions
  int64_t taken_ = 0;

  // Between the threads, under the mutex.
  std::mutex mutex_;
  std::condition_variable made_, wanted_;
  BlendOrder order_;
  std::map<int64_t, Slot> ready_;  // by n
  int64_t claimed_ = 0;
  int64_t running_ = 0;  // threads
  int64_t samples_for_all_ = 0;
  bool stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace trestle
