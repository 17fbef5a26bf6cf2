// Ends a run whose ranks wait for one that will not come: stopped, hung, or in another collective.
// Held by whoever runs a rank as a process of its own.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

namespace c10d {
class Store;
}

namespace trestle {

class Journal;

struct WatchdogLimits {
  /// How often a rank says that it is there.
  std::chrono::milliseconds beat{1000};
  /// A rank that says nothing for so long is gone: its process is stopped, or its machine.
  std::chrono::milliseconds silence{15000};
  /// How long a collective may take.
  std::chrono::milliseconds collective = std::chrono::minutes(30);
};

/// Every rank writes what it is doing to the store, and looks after the two that follow it. The
/// first to find one silent, or a collective of its own too long, tells where every rank is; the
/// others end without a word.
class Watchdog {
 public:
  /// `found(report)` is called once, on a thread of this; the report is empty where another rank
  /// has told it. What waits in a collective does not come back, so it ends the process.
  Watchdog(const c10::intrusive_ptr<c10d::Store>& store, int64_t rank, int64_t size,
           std::shared_ptr<Journal> journal, WatchdogLimits limits,
           std::function<void(const std::string& report)> found);
  /// Says that this rank has come to its end.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  class Look;
  std::unique_ptr<Look> look_;
  std::jthread thread_;
};

}  // namespace trestle
