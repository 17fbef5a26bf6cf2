// What the fuzz targets share. A target is one function from bytes; the reader under test may
// refuse them with a UserError. Any other exception, a sanitizer's report, more memory than the
// limits of run.py or too much time is a finding.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace trestle::fuzz {

inline std::span<const std::byte> bytes_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// A broken promise of a reader, as a crash that the fuzzer keeps.
inline void expect(bool holds) {
  if (!holds) std::abort();
}

/// Runs a reader, or several with `or_refused` around each.
template <class Read>
void or_refused(Read&& read) {
  try {
    read();
  } catch (const UserError&) {
  }
}

/// Reads every byte, so that the address sanitizer sees a view that leaves its buffer.
inline void touch(std::span<const std::byte> bytes) {
  uint8_t sum = 0;
  for (const std::byte byte : bytes) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(byte));
  [[maybe_unused]] static volatile uint8_t sink;
  sink = sum;
}

/// The input as a file in memory, for readers that open a path. One a target, refilled each time.
class InputFile {
 public:
  InputFile() : fd_(::memfd_create("input", MFD_CLOEXEC)) { expect(fd_ >= 0); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  std::filesystem::path fill(const uint8_t* data, size_t size) {
    expect(::ftruncate(fd_, 0) == 0);
    expect(::pwrite(fd_, data, size, 0) == static_cast<ssize_t>(size));
    return "/proc/self/fd/" + std::to_string(fd_);
  }

 private:
  int fd_;
};

}  // namespace trestle::fuzz
