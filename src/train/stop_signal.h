// SIGTERM and SIGINT as a wish to stop behind the step that runs. Held by the trainer while it
// trains.
#pragma once

#include <signal.h>

namespace trestle {

/// While it lives the first SIGTERM or SIGINT is remembered; a second one, the same or the other,
/// ends the process at once. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// SIGTERM, SIGINT, or 0.
  int received() const;

 private:
  struct sigaction old_terminate_ {};
  struct sigaction old_interrupt_ {};
};

}  // namespace trestle
