// A thread that may not start: a machine, a container or a user has so many and no more. Whoever
// starts one does it here.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <thread>

namespace trestle {

/// The `n`-th of `count` threads, from 1, for `what` ("dataset.num_workers=8"). Throws MachineError
/// where the system starts no more; the caller ends those that it has, which join as they go.
std::jthread start_thread(std::function<void()> work, std::string_view what, int64_t n = 1,
                          int64_t count = 1);

}  // namespace trestle
