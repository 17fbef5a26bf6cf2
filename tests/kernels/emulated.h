// The CUDA kernels by the emulator, installed for tensors of the CPU, so that the operators of
// src/kernels, their autograd functions and whole models run through them where no card is; and how
// often each was called, as a test that the fallback passes shows nothing. With
// TRESTLE_TEST_KERNELS=NAME,NAME a test program installs them for all of its tests, and fails at
// its end where one of those names was not called; so it does with those of a card where it is
// linked with them and TRESTLE_TEST_DEVICE is one.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace trestle::testing {

/// To the end of the scope; what is installed then is what was before.
class EmulatedKernels {
 public:
  EmulatedKernels();
  ~EmulatedKernels();
  EmulatedKernels(const EmulatedKernels&) = delete;
  EmulatedKernels& operator=(const EmulatedKernels&) = delete;

  /// Since the last question: calls of each kernel that was called.
  static std::map<std::string, int64_t> calls();

 private:
  bool installed_before_;
};

}  // namespace trestle::testing
