#include "base/stop_signal.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "base/standard_streams.h"

namespace trestle {

namespace {

constexpr std::array kSignals = {SIGTERM, SIGINT, SIGHUP};

volatile std::sig_atomic_t g_received = 0;
volatile std::sig_atomic_t g_is_rank = 0;
std::mutex g_mutex;
int64_t g_living = 0;
std::array<struct sigaction, kSignals.size()> g_old = {};

// The next one that asks again, whichever it is, ends the process: SA_RESETHAND would give back
// only the signal that came.
extern "C" void remember(int number) {
  if (g_received == 0) g_received = number;
  if (g_is_rank != 0) return;
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGTERM, &standard, nullptr);
  sigaction(SIGINT, &standard, nullptr);
}

}  // namespace

StopSignal::StopSignal() {
  const std::scoped_lock lock(g_mutex);
  if (g_living++ > 0) return;
  g_received = 0;
  g_is_rank = std::getenv("TORCHELASTIC_RUN_ID") == nullptr ? 0 : 1;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  // None comes while another is being remembered.
  sigemptyset(&action.sa_mask);
  for (const int number : kSignals) sigaddset(&action.sa_mask, number);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &g_old[i]);
    const bool stays_ignored = kSignals[i] == SIGHUP && g_old[i].sa_handler == SIG_IGN;
    if (!stays_ignored) sigaction(kSignals[i], &action, nullptr);
  }
}

StopSignal::~StopSignal() {
  const std::scoped_lock lock(g_mutex);
  if (--g_living > 0) return;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &g_old[i], nullptr);
}

int StopSignal::received() const {
  if (g_received != 0) return g_received;
  return messages_unread() ? SIGPIPE : 0;
}

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name == nullptr ? std::to_string(signal) : std::string("SIG") + name;
}

void end_by_signal(int signal) {
  std::signal(signal, SIG_DFL);
  std::raise(signal);
  ::_exit(128 + signal);  // it is blocked
}

}  // namespace trestle
