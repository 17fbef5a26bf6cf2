#include "base/standard_streams.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <utility>

#include "base/error.h"

namespace trestle {

namespace {

std::atomic<bool> g_messages_unread = false;

// Says of every message that it was written, so that no printing throws.
ssize_t write_message(void* /*cookie*/, const char* text, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = ::write(STDERR_FILENO, text + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) g_messages_unread = true;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(size);
}

}  // namespace

bool output_closed() {
  // Asked of the pipe itself: errno may be of a later call.
  pollfd output{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

void flush_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.flush().good()) return;
  const int why = errno;
  if (output_closed()) throw OutputClosed();
  machine_error("cannot write to standard output: {}", std::strerror(why));
}

void protect_streams() {
  // A write to a pipe without a reader, or over the limit of a file's size, fails (EPIPE, EFBIG)
  // and is told as any other.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  // In glibc the standard streams are variables that a program may set.
  FILE* messages =
      ::fopencookie(nullptr, "w", {.read = {}, .write = write_message, .seek = {}, .close = {}});
  if (messages == nullptr) return;
  std::setvbuf(messages, nullptr, _IONBF, 0);
  stderr = messages;
}

SilentMessages::SilentMessages() : before_(stderr) {
  if (FILE* nowhere = std::fopen("/dev/null", "w")) stderr = nowhere;
}

SilentMessages::~SilentMessages() {
  if (stderr != before_) std::fclose(std::exchange(stderr, before_));
}

bool messages_unread() { return g_messages_unread; }

}  // namespace trestle
