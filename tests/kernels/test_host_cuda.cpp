// The emulator itself: what it gives of CUDA, and each fault that a card would pass over in
// silence.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "errors.h"
#include "kernels/host_cuda/cuda_bf16.h"
#include "kernels/host_cuda/cuda_runtime.h"

namespace trestle {
namespace {

using host_cuda::Fault, host_cuda::Order, host_cuda::Shared;
using testing::expect_mentions;

constexpr unsigned kAll = ~0U;

template <class Kernel>
void run(dim3 grid, dim3 block, const Kernel& kernel, size_t shared_bytes = 0) {
  host_cuda::run(grid, block, shared_bytes, kernel);
}

template <class Kernel>
std::string fault_of(dim3 grid, dim3 block, const Kernel& kernel, size_t shared_bytes = 0) {
  return testing::error_of<Fault>([&] { run(grid, block, kernel, shared_bytes); });
}

class HostCuda : public ::testing::Test {
 protected:
  void TearDown() override { host_cuda::set_schedule({}); }
};

TEST_F(HostCuda, EveryThreadOfTheGridRunsOnceInEachOrder) {
  for (const Order order : {Order::kAscending, Order::kDescending, Order::kShuffled}) {
    host_cuda::set_schedule({order, 7});
    std::vector<int> seen(2 * 3 * 4 * 5 * 6 * 2);
    std::vector<size_t> turns;
    run({2, 3, 4}, {5, 6, 2}, [&] {
      const size_t block = blockIdx.x + 2 * (blockIdx.y + size_t{3} * blockIdx.z);
      const size_t thread = threadIdx.x + 5 * (threadIdx.y + size_t{6} * threadIdx.z);
      ASSERT_EQ(gridDim.y, 3);
      ASSERT_EQ(blockDim.y, 6);
      turns.push_back(block * 60 + thread);
      ++seen[turns.back()];
    });
    EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
    EXPECT_EQ(std::ranges::is_sorted(turns), order == Order::kAscending);
    EXPECT_EQ(std::ranges::is_sorted(turns, std::greater<>()), order == Order::kDescending);
  }
}

TEST_F(HostCuda, ABarrierOrdersSharedMemory) {
  for (const Order order : {Order::kAscending, Order::kDescending, Order::kShuffled}) {
    host_cuda::set_schedule({order, 3});
    std::vector<int> got(100);
    run(2, 50, [&] {
      __shared__ Shared<int, 50> values;
      const int i = static_cast<int>(threadIdx.x);
      values[i] = i;
      __syncthreads();
      got[blockIdx.x * 50 + threadIdx.x] = values[49 - i];
    });
    for (int i = 0; i < 100; ++i) ASSERT_EQ(got[static_cast<size_t>(i)], 49 - i % 50);
  }
}

TEST_F(HostCuda, AMissingBarrierIsSeenInAnotherOrder) {
  const auto neighbours = [](Order order) {
    host_cuda::set_schedule({order, 3});
    std::vector<int> got(64);
    run(1, 64, [&] {
      __shared__ Shared<int, 64> values;
      values[threadIdx.x] = static_cast<int>(threadIdx.x);
      got[threadIdx.x] = values[(threadIdx.x + 1) % 64];
    });
    return got;
  };
  EXPECT_NE(neighbours(Order::kAscending), neighbours(Order::kDescending));
  EXPECT_NE(neighbours(Order::kAscending), neighbours(Order::kShuffled));
}

// A second value is written over the first before all warps have read that: only a warp that runs
// ahead of the others shows it.
TEST_F(HostCuda, AMissingBarrierBehindAReadIsSeenInAnotherOrder) {
  const auto sums = [](Order order) {
    host_cuda::set_schedule({order, 3});
    std::vector<int> got(64);
    run(1, 64, [&] {
      __shared__ Shared<int, 2> values;
      for (int round = 0; round < 2; ++round) {
        const int value = __shfl_sync(kAll, round + 1, 0);
        if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value;
        __syncthreads();
        got[threadIdx.x] += __shfl_sync(kAll, values[0] + values[1], 0);
      }
    });
    return got;
  };
  EXPECT_NE(sums(Order::kAscending), sums(Order::kDescending));
}

TEST_F(HostCuda, ShufflesExchangeWithinAWarp) {
  for (const Order order : {Order::kAscending, Order::kShuffled}) {
    host_cuda::set_schedule({order, 5});
    run(1, 64, [&] {
      const int lane = static_cast<int>(threadIdx.x % 32), thread = static_cast<int>(threadIdx.x);
      for (int round = 0; round < 3; ++round) {
        const int value = 100 * round + thread;
        ASSERT_EQ(__shfl_xor_sync(kAll, value, 5), 100 * round + (thread ^ 5));
        ASSERT_EQ(__shfl_sync(kAll, value, 3), 100 * round + thread / 32 * 32 + 3);
        ASSERT_EQ(__shfl_down_sync(kAll, value, 4), value + (lane < 28 ? 4 : 0));
        ASSERT_EQ(__shfl_up_sync(kAll, value, 4), value - (lane >= 4 ? 4 : 0));
        ASSERT_EQ(__shfl_xor_sync(kAll, 0.5F * value, 1), 0.5F * (100 * round + (thread ^ 1)));
      }
      // Half a warp each, at places of their own.
      if (lane < 16) {
        ASSERT_EQ(__shfl_xor_sync(0xFFFFU, thread, 8), thread ^ 8);
      } else {
        ASSERT_EQ(__shfl_xor_sync(0xFFFF0000U, thread, 4), thread ^ 4);
      }
      __syncwarp();
    });
  }
}

TEST_F(HostCuda, ABarrierThatNotAllThreadsReachIsAFault) {
  expect_mentions(
      fault_of(1, 64,
               [] {
                 if (threadIdx.x != 5) __syncthreads();
               }),
      {"wait for each other for ever", "test_host_cuda.cpp", "from thread 5: returned"});
  expect_mentions(fault_of(1, 64,
                           [] {
                             if (threadIdx.x < 32) {
                               __syncthreads();
                             } else {
                               __syncthreads();
                             }
                           }),
                  {"wait for each other for ever", "from thread 32: at the barrier"});
}

TEST_F(HostCuda, AShuffleWithoutOneOfItsLanesIsAFault) {
  const auto xor_one = [](unsigned mask) { return [mask] { __shfl_xor_sync(mask, 1, 1); }; };
  // A lane that went another way, one that the block does not have, one that returned.
  expect_mentions(fault_of(1, 32,
                           [] {
                             if (threadIdx.x == 9) {
                               __shfl_xor_sync(kAll, 1, 1);
                             } else {
                               __shfl_xor_sync(kAll, 1, 1);
                             }
                           }),
                  {"wait for each other for ever", "from thread 9: in the shuffle"});
  expect_mentions(fault_of(1, 40, xor_one(kAll)), {"from thread 32: in the shuffle"});
  expect_mentions(fault_of(1, 32,
                           [&] {
                             if (threadIdx.x < 31) xor_one(kAll)();
                           }),
                  {"from thread 31: returned"});
  // A mask without the lane itself, and a source that is not in the mask.
  expect_mentions(fault_of(1, 32, [] { __shfl_sync(0x7FFFFFFFU, 1, 0); }),
                  {"lane 31 is not in its own mask"});
  expect_mentions(fault_of(1, 3, [] { __shfl_xor_sync(7U, 1, 1); }),
                  {"reads lane 3, which is not in its mask"});
}

TEST_F(HostCuda, SharedMemoryHasEndsAndStartsAsNaN) {
  expect_mentions(fault_of(1, 33,
                           [] {
                             __shared__ Shared<float, 32> values;
                             values[threadIdx.x] = 1;
                           }),
                  {"32 elements", "thread 32", "asks for 32"});
  expect_mentions(fault_of(
                      1, 33,
                      [] {
                        const auto values = host_cuda::dynamic_shared<float>();
                        values[threadIdx.x] = 1;
                      },
                      32 * sizeof(float)),
                  {"32 elements", "thread 32", "asks for 32"});
  // In each block, whatever the last one left.
  run(
      3, 32,
      [] {
        __shared__ Shared<float, 32> values;
        const auto more = host_cuda::dynamic_shared<float>();
        ASSERT_TRUE(std::isnan(values[threadIdx.x]) && std::isnan(more[threadIdx.x]));
        values[threadIdx.x] = more[threadIdx.x] = 1;
      },
      32 * sizeof(float));
}

TEST_F(HostCuda, RefusesWhatNoCardTakes) {
  const auto nothing = [] {};
  expect_mentions(fault_of(1, 1025, nothing), {"no card takes", "1025 threads"});
  expect_mentions(fault_of(0, 32, nothing), {"no card takes 0 blocks"});
  expect_mentions(fault_of({1, 65536}, 32, nothing), {"no card takes 65536 blocks"});
  expect_mentions(fault_of(1, 32, nothing, size_t{228} << 10), {"no card takes", "bytes"});
  alignas(16) static const char kBytes[32] = {};
  expect_mentions(fault_of(1, 1, [] { host_cuda::check_aligned(kBytes + 8, 16); }),
                  {"16 bytes", "not aligned"});
}

TEST_F(HostCuda, GoesOnAfterAFault) {
  expect_mentions(fault_of(1, 64,
                           [] {
                             if (threadIdx.x != 5) __syncthreads();
                           }),
                  {"wait for each other for ever"});
  int count = 0;
  run(2, 64, [&] {
    __syncthreads();
    atomicAdd(&count, 1);
  });
  EXPECT_EQ(count, 128);
}

TEST_F(HostCuda, RoundsToBf16AsCudaDoes) {
  const auto bits = [](float x) { return __float2bfloat16_rn(x).bits; };
  EXPECT_EQ(bits(1), 0x3F80);
  EXPECT_EQ(bits(1 + 0x1p-8F), 0x3F80);             // a half goes to even
  EXPECT_EQ(bits(1 + 0x1p-7F + 0x1p-8F), 0x3F82);   // upwards too
  EXPECT_EQ(bits(1 + 0x1p-8F + 0x1p-20F), 0x3F81);  // over a half
  EXPECT_EQ(bits(-0.0F), 0x8000);
  EXPECT_EQ(bits(3.4e38F), 0x7F80);  // over the largest
  EXPECT_TRUE(std::isnan(__bfloat162float(__float2bfloat16_rn(NAN))));
  EXPECT_EQ(__bfloat162float(__nv_bfloat16{0x4049}), 3.140625F);
}

}  // namespace
}  // namespace trestle
