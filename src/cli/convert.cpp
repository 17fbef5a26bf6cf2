#include "cli/convert.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"

namespace trestle {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void ConvertFlags::add_to(Command command) {
  command
      .add("--max-memory,--max_memory", max_memory,
           "what the program may hold, such as 800MB; blocks are chosen to fit")
      .show_default();
  format.add_to(command);
}

void ConvertFlags::report(const char* verb, const std::string& target,
                          const std::function<Conversion()>& convert) {
  options.max_memory = parse_bytes("--max-memory", max_memory);
  options.on_plan = [&](const StreamPlan& plan) {
    fmt::print(
        stderr,
        "{} tensors, {:.3f} GB, to {}: at most {:.2f} GB of memory, {:.1f} GB of disk free\n",
        plan.tensors, gigabytes(plan.bytes), target,
        gigabytes(
            std::max(plan.peak_bytes, std::min(plan.peak_bytes + later_bytes, options.max_memory))),
        gigabytes(plan.free_disk));
  };
  const auto start = std::chrono::steady_clock::now();
  const Conversion done = convert();
  const double seconds = seconds_since(start);
  fmt::print(stderr, "{} {} tensors, {:.1f} MB in {:.1f} s ({:.0f} MB/s) to {}\n", verb,
             done.tensors, static_cast<double>(done.bytes) / 1e6, seconds,
             static_cast<double>(done.bytes) / 1e6 / std::max(seconds, 1e-3), target);
}

}  // namespace trestle
