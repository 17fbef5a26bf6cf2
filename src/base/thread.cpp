#include "base/thread.h"

#include <system_error>
#include <utility>

#include "base/error.h"

namespace trestle {

std::jthread start_thread(std::function<void()> work, std::string_view what, int64_t n,
                          int64_t count) {
  try {
    return std::jthread(std::move(work));
  } catch (const std::system_error& error) {
    machine_error(
        "{} asks for {} thread{}, and the system starts no more behind {} ({}); {}end other "
        "processes or raise the limit (ulimit -u, a container's pids)",
        what, count, count == 1 ? "" : "s", n - 1, error.code().message(),
        count == 1 ? "" : "ask for fewer, ");
  }
}

}  // namespace trestle
