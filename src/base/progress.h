// How far a long transfer is, on stderr: one line that is drawn anew on a terminal, a line now and
// then elsewhere. Called by the Hub client.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace trestle {

class Progress {
 public:
  /// `what` opens each line. Nothing is printed before the first add().
  Progress(std::string what, uint64_t total_bytes, uint64_t done_bytes = 0);
  /// Ends a line that is being drawn.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// From any thread; negative for bytes that must come again.
  void add(int64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  void print(Clock::time_point now);

  const std::string what_;
  const uint64_t total_;
  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  std::mutex mutex_;
  int64_t done_;
  int64_t moved_ = 0;  // by this process
  Clock::time_point next_;
  bool drawn_ = false;
};

/// "512 B", "3.4 MB", "7.12 GB": powers of ten, as disks and networks count.
std::string readable_bytes(uint64_t bytes);

}  // namespace trestle
