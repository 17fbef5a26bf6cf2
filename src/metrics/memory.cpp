#include "metrics/memory.h"

#include <malloc.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

namespace trestle {

namespace {

// A line of /proc/self/status that is in kB.
std::optional<int64_t> status_bytes(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(key)) continue;
    return std::strtoll(line.c_str() + key.size(), nullptr, 10) * 1024;
  }
  return std::nullopt;
}

}  // namespace

int64_t peak_resident_bytes() {
  if (const auto most = status_bytes("VmHWM:")) return *most;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

Scalars process_memory() {
  Scalars found;
#ifdef __GLIBC__
  const struct mallinfo2 heap = ::mallinfo2();
  found.emplace_back("memory/mem-allocated-gigabytes",
                     static_cast<double>(heap.uordblks + heap.hblkhd) / 1e9);
#endif
  if (const auto now = status_bytes("VmRSS:")) {
    found.emplace_back("memory/mem-reserved-gigabytes", static_cast<double>(*now) / 1e9);
  }
  if (const auto most = status_bytes("VmHWM:")) {
    found.emplace_back("memory/mem-max-reserved-gigabytes", static_cast<double>(*most) / 1e9);
  }
  return found;
}

}  // namespace trestle
