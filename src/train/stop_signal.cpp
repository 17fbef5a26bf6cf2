#include "train/stop_signal.h"

#include <csignal>

namespace trestle {

namespace {

volatile std::sig_atomic_t g_received = 0;

// The next one, whichever of the two it is, ends the process: SA_RESETHAND would give back only the
// signal that came.
extern "C" void remember(int number) {
  g_received = number;
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGTERM, &standard, nullptr);
  sigaction(SIGINT, &standard, nullptr);
}

}  // namespace

StopSignal::StopSignal() {
  g_received = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  // Neither comes while the other is being remembered.
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, SIGTERM);
  sigaddset(&action.sa_mask, SIGINT);
  sigaction(SIGTERM, &action, &old_terminate_);
  sigaction(SIGINT, &action, &old_interrupt_);
}

StopSignal::~StopSignal() {
  sigaction(SIGTERM, &old_terminate_, nullptr);
  sigaction(SIGINT, &old_interrupt_, nullptr);
}

int StopSignal::received() const { return g_received; }

}  // namespace trestle
