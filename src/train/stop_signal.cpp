#include "train/stop_signal.h"

#include <csignal>

namespace trestle {

namespace {

volatile std::sig_atomic_t g_received = 0;

extern "C" void remember(int number) { g_received = number; }

}  // namespace

StopSignal::StopSignal() {
  g_received = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESETHAND | SA_RESTART;  // the second one is the default's
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, &old_terminate_);
  sigaction(SIGINT, &action, &old_interrupt_);
}

StopSignal::~StopSignal() {
  sigaction(SIGTERM, &old_terminate_, nullptr);
  sigaction(SIGINT, &old_interrupt_, nullptr);
}

int StopSignal::received() const { return g_received; }

}  // namespace trestle
