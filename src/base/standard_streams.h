// Standard output and standard error where nobody reads them any more, or their disk is full. Set
// up by main; asked by the commands and by the trainer's StopSignal.
#pragma once

#include <cstdio>
#include <exception>

namespace trestle {

/// Standard output is a pipe that nobody reads any more. On its way to main, which ends the process
/// by SIGPIPE and in silence, as cat does, whatever is half-written is removed.
class OutputClosed : public std::exception {};

/// Hands on what was printed to stdout and std::cout. Throws OutputClosed, or MachineError where
/// the disk refuses.
void flush_output();
bool output_closed();

/// For main, before anything else: no write ends the process by a signal, and a message that stderr
/// does not take (its terminal is gone, its disk is full) is dropped. What is told ends nothing
/// that is done.
void protect_streams();
/// While it lives what is printed to stderr is dropped: of a rank whose first tells the same. What
/// is written to the descriptor itself is not.
class SilentMessages {
 public:
  SilentMessages();
  ~SilentMessages();
  SilentMessages(const SilentMessages&) = delete;
  SilentMessages& operator=(const SilentMessages&) = delete;

 private:
  FILE* before_;
};

/// Whether stderr is a pipe that nobody reads any more, as a message has shown.
bool messages_unread();

}  // namespace trestle
