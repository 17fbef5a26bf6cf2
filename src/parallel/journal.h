// What a rank is doing, for whoever asks why it does not go on. Written by its groups and the
// trainer, read by the watchdog.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

namespace trestle {

/// For several threads at once.
class Journal {
 public:
  /// The optimizer step that runs and the rows in hand, for messages.
  void at_step(int64_t step, std::string rows);
  /// A collective begins; returns its number among this rank's.
  int64_t begin(std::string collective);
  void end();
  /// As one line: "step 3, rows 12 to 15, in all_reduce of [4, 8] over tensor (its collective 17)".
  std::string where() const;
  int64_t collectives() const;
  /// When the collective that runs began; none where none runs.
  std::optional<std::chrono::steady_clock::time_point> running_since() const;

 private:
  mutable std::mutex mutex_;
  int64_t step_ = 0, collectives_ = 0;
  std::string rows_, running_, last_;
  std::chrono::steady_clock::time_point began_;
};

}  // namespace trestle
