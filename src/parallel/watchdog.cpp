#include "parallel/watchdog.h"

#include <fmt/format.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "parallel/journal.h"

namespace trestle {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kEnded = "ended";
constexpr const char* kClaim = "watchdog/claim";
constexpr const char* kFault = "watchdog/fault";

std::string key_of(int64_t rank) { return fmt::format("watchdog/rank {}", rank); }

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

class Watchdog::Look {
 public:
  Look(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size,
       std::shared_ptr<Journal> journal, WatchdogLimits limits,
       std::function<void(const std::string&)> found)
      : store_(std::move(store)),
        rank_(rank),
        size_(size),
        journal_(std::move(journal)),
        limits_(limits),
        found_(std::move(found)) {
    // A store whose host is stopped does not answer; the thread must come back to say so.
    store_->setTimeout(std::max(limits.beat, std::chrono::milliseconds(1000)));
    for (int64_t next = 1; next <= std::min<int64_t>(2, size - 1); ++next) {
      watched_.push_back({(rank + next) % size, "", Clock::now()});
    }
  }

  void run(const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any wake;
    while (!stop.stop_requested()) {
      try {
        if (const auto report = look()) {
          if (!stop.stop_requested()) found_(*report);
          return;
        }
        answered_ = Clock::now();
      } catch (const std::exception& error) {
        if (stop.stop_requested()) return;
        if (Clock::now() - answered_ > limits_.silence) {
          found_(fmt::format(
              "rank {} of {}: the ranks' store has not answered for {:.0f} s, so rank 0 or the "
              "launcher is gone or stopped; here: {}",
              rank_, size_, seconds(Clock::now() - answered_), journal_->where()));
          return;
        }
      }
      std::unique_lock lock(mutex);
      wake.wait_for(lock, stop, limits_.beat, [] { return false; });
    }
    say_ended();
  }

 private:
  void say_ended() noexcept {
    try {
      set(key_of(rank_), std::string(kEnded));
    } catch (const std::exception& error) {
      [[maybe_unused]] const char* why = error.what();  // the store may have ended before
    }
  }

  struct Watched {
    int64_t rank;
    std::string last;
    Clock::time_point changed;
  };

  void set(const std::string& key, const std::string& value) {
    store_->set(key, std::vector<uint8_t>(value.begin(), value.end()));
  }

  std::string get(const std::string& key) {
    if (!store_->check({key})) return {};
    const std::vector<uint8_t> value = store_->get(key);
    return {value.begin(), value.end()};
  }

  // What is to be told, "" where another has told it, or nothing.
  std::optional<std::string> look() {
    const Clock::time_point now = Clock::now();
    set(key_of(rank_), fmt::format("{} {}", ++beats_, journal_->where()));
    if (store_->check({kFault})) return "";
    for (Watched& each : watched_) {
      std::string said = get(key_of(each.rank));
      if (said != each.last) {
        each = {each.rank, std::move(said), now};
      } else if (said != kEnded && now - each.changed > limits_.silence) {
        return told(
            fmt::format("rank {} of {} has said nothing for {:.0f} s: it is stopped or gone",
                        each.rank, size_, seconds(now - each.changed)));
      }
    }
    if (const auto since = journal_->running_since(); since && now - *since > limits_.collective) {
      return told(fmt::format("rank {} of {} has waited {:.0f} s in a collective", rank_, size_,
                              seconds(now - *since)));
    }
    return {};
  }

  std::string told(const std::string& what) {
    if (store_->add(kClaim, 1) != 1) return "";
    std::string report = what;
    for (int64_t rank = 0; rank < size_; ++rank) {
      const std::string said = get(key_of(rank));
      const std::string where = said.substr(std::min(said.find(' ') + 1, said.size()));
      report += fmt::format("\n  rank {}: {}", rank, where.empty() ? "never seen" : where);
    }
    set(kFault, report);
    return report;
  }

  c10::intrusive_ptr<c10d::Store> store_;
  int64_t rank_, size_;
  std::shared_ptr<Journal> journal_;
  WatchdogLimits limits_;
  std::function<void(const std::string&)> found_;
  std::vector<Watched> watched_;
  int64_t beats_ = 0;
  Clock::time_point answered_ = Clock::now();
};

// A connection of its own: the rank's waits in the first may be long.
Watchdog::Watchdog(const c10::intrusive_ptr<c10d::Store>& store, int64_t rank, int64_t size,
                   std::shared_ptr<Journal> journal, WatchdogLimits limits,
                   std::function<void(const std::string&)> found)
    : look_(std::make_unique<Look>(store->clone(), rank, size, std::move(journal), limits,
                                   std::move(found))),
      thread_([this](const std::stop_token& stop) { look_->run(stop); }) {}

Watchdog::~Watchdog() {
  thread_.request_stop();
  thread_.join();
}

}  // namespace trestle
