#include "batches/sample_stream.h"

#include <ATen/Parallel.h>
#include <sys/resource.h>
#include <unistd.h>

#include <iterator>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace trestle {

namespace {

constexpr int64_t kAheadOfEach = 4;  // samples a worker may be ahead; pictures take megabytes
constexpr int kLowestPriority = 19;

// A worker takes what the training step leaves of the cores. Were it their equal, the step's own
// threads, which wait for each other, would all be as slow as the one that shares its core.
void yield_to_the_step() {
  at::set_num_threads(1);  // its own operators must not ask for every core
  // On Linux a thread has a priority of its own; where it cannot be set, nothing is lost but speed.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kLowestPriority);
}

// The first position from `start` on that is this rank's.
int64_t first_of_rank(const StreamOptions& options) {
  const int64_t ranks = options.ranks;
  return options.start + (options.rank - options.start % ranks + ranks) % ranks;
}

}  // namespace

SampleStream::SampleStream(const Dataset& dataset, const Processor& processor,
                           StreamOptions options)
    : dataset_(dataset),
      processor_(processor),
      options_(std::move(options)),
      first_(first_of_rank(options_)),
      order_(dataset.parts(), options_.seed, options_.shuffle, options_.blend_start),
      samples_for_all_(order_.samples_for_all()) {
  // What a worker sets is also what threads to come begin with; that is put back.
  const int threads = at::get_num_threads();
  try {
    const std::string what = fmt::format("dataset.num_workers={}", options_.workers);
    while (std::ssize(threads_) < options_.workers) {
      threads_.push_back(
          start_thread([this] { work(); }, what, std::ssize(threads_) + 1, options_.workers));
    }
  } catch (...) {
    stop();
    at::set_num_threads(threads);
    throw;
  }
  if (threads_.empty()) return;
  std::unique_lock lock(mutex_);
  made_.wait(lock, [&] { return running_ == options_.workers; });
  at::set_num_threads(threads);
}

SampleStream::~SampleStream() { stop(); }

void SampleStream::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  wanted_.notify_all();
  threads_.clear();  // joins
}

int64_t SampleStream::row_of(int64_t n) { return order_.row(first_ + n * options_.ranks); }

SampleStream::Slot SampleStream::make(int64_t row) const {
  Slot slot{.row = row, .sample = {}, .error = {}};
  try {
    slot.sample = fit(processor_, dataset_.row(row), options_.max_length, options_.overlong,
                      dataset_.row_name(row, options_.name));
  } catch (...) {
    slot.error = std::current_exception();
  }
  return slot;
}

void SampleStream::work() {
  yield_to_the_step();
  std::unique_lock lock(mutex_);
  ++running_;
  made_.notify_all();
  while (true) {
    wanted_.wait(lock,
                 [&] { return stopping_ || claimed_ - taken_ < kAheadOfEach * options_.workers; });
    if (stopping_) return;
    const int64_t n = claimed_++;
    const int64_t row = row_of(n);
    lock.unlock();
    Slot slot = make(row);
    lock.lock();
    ready_.emplace(n, std::move(slot));
    made_.notify_all();
  }
}

SampleStream::Slot SampleStream::draw() {
  std::unique_lock lock(mutex_);
  if (threads_.empty()) return make(row_of(taken_++));
  made_.wait(lock, [&] { return ready_.contains(taken_); });
  Slot slot = std::move(ready_.extract(taken_++).mapped());
  lock.unlock();
  wanted_.notify_one();
  return slot;
}

SampleStream::Taken SampleStream::next() {
  for (int64_t dropped = 0; dropped <= samples_for_all_; ++dropped) {
    Slot slot = draw();
    if (slot.error) std::rethrow_exception(slot.error);
    if (slot.sample) return {slot.row, std::move(*slot.sample)};
  }
  every_row_is_dropped();
}

void SampleStream::every_row_is_dropped() const {
  user_error("every row of {} is longer than model.seq_length={} and dropped", options_.name,
             options_.max_length);
}

}  // namespace trestle
