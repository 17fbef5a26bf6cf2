// Runs CUDA kernels on the CPU, so that the very text of src/cuda/*.cu is proved where no card
// is. The threads of a block are fibers that change places at barriers and shuffles only; blocks
// run one after another. Asked for by cuda_runtime.h, which stands in for CUDA's own, and by tests.
// Whatever CUDA leaves undefined and can be seen here is a Fault: a barrier that some thread does
// not reach, a shuffle without one of its lanes, shared memory out of range, a vector that is not
// aligned. Shared memory is NaN (all ones) when a block starts. What is not seen in one order of
// the threads is looked for in others: tests ask for equal bits in all of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <span>
#include <stdexcept>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace host_cuda {

/// What a card would not have told.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// In which lanes, warps and blocks come by turns, a warp until all its lanes wait; kShuffled anew
/// at every turn, by `seed`.
enum class Order { kAscending, kDescending, kShuffled };
struct Schedule {
  Order order = Order::kAscending;
  uint64_t seed = 0;
};

/// Of the kernels launched from here on.
void set_schedule(const Schedule& schedule);

/// Calls `thread` once for each thread of the grid. Throws the Fault of a thread.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

// Below: for kernels.

using Site = std::source_location;

struct Place {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
/// Of the running thread.
extern Place place;

/// Until all threads of the block are there.
void barrier(const Site& site);

/// What each lane of the warp gave, when all lanes of `mask` are there; others' is 0.
const std::array<uint64_t, 32>& exchange(unsigned mask, uint64_t value, const Site& site);

/// Memory that becomes NaN when a block starts.
void poison_at_start(void* data, size_t bytes);
void check_index(int64_t index, int64_t count);
void check_aligned(const void* data, size_t alignment);

std::span<std::byte> dynamic_shared_bytes();

}  // namespace host_cuda
