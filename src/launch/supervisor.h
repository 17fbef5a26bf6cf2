// Starts the ranks of a node in torchrun's environment, passes on what they print and the signals
// that come, and ends all of them where one fails. Called by `trestle launch`.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "launch/nodes.h"
#include "launch/process.h"

namespace trestle {

/// How long is waited for what.
struct Patience {
  /// Behind a first failure for others, of which one may be its cause.
  std::chrono::milliseconds cause{300};
  /// The same where all that failed here speak of others, and there are other nodes: for a launcher
  /// that no longer counts.
  std::chrono::milliseconds node{3000};
  /// Between SIGTERM and SIGKILL.
  std::chrono::milliseconds grace{5000};
  /// For the others where a rank ended by a SIGTERM that did not come from here: it told them.
  std::chrono::milliseconds told{30000};
};

struct LaunchOptions {
  Program program;
  NodeOptions nodes;
  Patience patience = {};
};

/// Whether what a rank said last speaks of another one that is gone, and is no cause of its own.
bool is_echo(std::string_view error);

/// Runs the ranks to their end. Returns 0, or the signal by which they were asked to stop and have
/// ended. A rank that fails ends all; they start anew where restarts are left and its status is not
/// that of a UserError, 2. Throws UserError (a rank left with 2) or MachineError, which name rank
/// and status, behind what the ranks said.
int run_ranks(const LaunchOptions& options);

}  // namespace trestle
