// The signals that a launcher hears of, one after another, for its poll loop. Held by the
// supervisor.
#pragma once

#include <signal.h>

#include <array>
#include <optional>

#include "launch/process.h"

namespace trestle {

/// While it lives, SIGTERM, SIGINT, SIGHUP and SIGCHLD are told and end nothing; a SIGHUP that was
/// ignored before (nohup) stays so. SIGPIPE is ignored: a write tells it. One at a time.
class HeardSignals {
 public:
  /// Throws MachineError.
  HeardSignals();
  ~HeardSignals();
  HeardSignals(const HeardSignals&) = delete;
  HeardSignals& operator=(const HeardSignals&) = delete;

  /// Readable where next() has one.
  int descriptor() const { return pipe_.read.get(); }
  /// The next that came, each once.
  std::optional<int> next();

 private:
  static constexpr std::array kSignals = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE};
  Pipe pipe_;
  std::array<struct sigaction, kSignals.size()> old_ = {};
};

}  // namespace trestle
