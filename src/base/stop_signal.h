// SIGTERM, SIGINT and SIGHUP as a wish to stop behind the step that runs, as is a stderr that
// nobody reads any more. Held by the trainer while it trains.
#pragma once

#include <string>

namespace trestle {

/// While it lives the first SIGTERM, SIGINT or SIGHUP is remembered; a SIGTERM or SIGINT behind it
/// ends the process at once. A second SIGHUP does not: of a terminal that closes one comes from the
/// shell and one from the kernel, and systemd sends one right behind its SIGTERM. A SIGHUP that was
/// ignored before (nohup) stays so. In a rank that a launcher started (TORCHELASTIC_RUN_ID) none
/// ends it: what systemd sends to every process comes from the launcher too, which has SIGKILL for
/// the end. Several may live at once, of threads that are ranks: they remember one signal.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// SIGTERM, SIGINT, SIGHUP, SIGPIPE (messages_unread()), or 0.
  int received() const;
};

/// "SIGTERM".
std::string signal_name(int signal);

/// Ends the process by `signal`: so whoever started it sees it end by what stopped it.
[[noreturn]] void end_by_signal(int signal);

}  // namespace trestle
