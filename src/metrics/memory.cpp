#include "metrics/memory.h"

#include <malloc.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace trestle {

Scalars process_memory() {
  Scalars found;
#ifdef __GLIBC__
  const struct mallinfo2 heap = ::mallinfo2();
  found.emplace_back("memory/mem-allocated-gigabytes",
                     static_cast<double>(heap.uordblks + heap.hblkhd) / 1e9);
#endif
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const bool now = line.starts_with("VmRSS:");
    if (!now && !line.starts_with("VmHWM:")) continue;
    const double kilobytes = std::strtod(line.c_str() + 6, nullptr);
    found.emplace_back(now ? "memory/mem-reserved-gigabytes" : "memory/mem-max-reserved-gigabytes",
                       kilobytes * 1024 / 1e9);
  }
  return found;
}

}  // namespace trestle
