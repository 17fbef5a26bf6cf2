#include "launch/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace trestle {

namespace {

volatile std::sig_atomic_t g_write_end = -1;

extern "C" void tell(int number) {
  const int before = errno;
  const auto byte = static_cast<unsigned char>(number);
  [[maybe_unused]] const ssize_t n = ::write(g_write_end, &byte, 1);
  errno = before;
}

}  // namespace

HeardSignals::HeardSignals() : pipe_(make_pipe()) {
  // A full one has enough to tell.
  ::fcntl(pipe_.write.get(), F_SETFL, O_NONBLOCK);
  g_write_end = pipe_.write.get();
  struct sigaction action {};
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    action.sa_handler = kSignals[i] == SIGPIPE ? SIG_IGN : tell;
    sigaction(kSignals[i], nullptr, &old_[i]);
    const bool stays_ignored = kSignals[i] == SIGHUP && old_[i].sa_handler == SIG_IGN;
    if (!stays_ignored) sigaction(kSignals[i], &action, nullptr);
  }
}

HeardSignals::~HeardSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &old_[i], nullptr);
  g_write_end = -1;
}

std::optional<int> HeardSignals::next() {
  unsigned char number = 0;
  ssize_t n = 0;
  do n = ::read(pipe_.read.get(), &number, 1);
  while (n < 0 && errno == EINTR);
  return n == 1 ? std::optional<int>(number) : std::nullopt;
}

}  // namespace trestle
