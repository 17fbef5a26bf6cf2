// HOST:PORT, where the launchers of several nodes meet. Called by the command line and by Nodes.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "launch/process.h"

namespace trestle {

struct Endpoint {
  std::string host;
  int port = 0;

  /// "host:29500", "[::1]:29500".
  std::string text() const;
};

/// Throws UserError, which names `flag`, for a text that is no endpoint.
Endpoint parse_endpoint(std::string_view flag, std::string_view text);

struct Listening {
  OwnDescriptor socket;
  int port = 0;
};

/// A socket that listens: of all addresses of this machine, or of itself alone; port 0 is any free
/// one. Throws MachineError, for a port that somebody else has too.
Listening listen_on(int port, bool loopback_alone);

/// Until something accepts connections there. Throws MachineError after `timeout`.
void await_endpoint(const Endpoint& endpoint, std::chrono::seconds timeout);

}  // namespace trestle
