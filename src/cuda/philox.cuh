// Random numbers from a counter (Salmon et al. 2011, Philox 4x32-10): no state, any number at any
// time. For .cu files.
#pragma once

#include "cuda/device.cuh"

namespace trestle::cuda {

/// 64 random bits of `seed` for the pair of counters.
__device__ __forceinline__ uint64_t philox(uint64_t seed, uint64_t low, uint64_t high) {
  auto key0 = static_cast<unsigned>(seed), key1 = static_cast<unsigned>(seed >> 32);
  auto a = static_cast<unsigned>(low), b = static_cast<unsigned>(low >> 32);
  auto c = static_cast<unsigned>(high), d = static_cast<unsigned>(high >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    constexpr unsigned kMultiplyA = 0xD2511F53, kMultiplyC = 0xCD9E8D57;
    const unsigned high_a = __umulhi(kMultiplyA, a), low_a = kMultiplyA * a;
    const unsigned high_c = __umulhi(kMultiplyC, c), low_c = kMultiplyC * c;
    a = high_c ^ b ^ key0;
    b = low_c;
    c = high_a ^ d ^ key1;
    d = low_a;
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return static_cast<uint64_t>(b) << 32 | a;
}

}  // namespace trestle::cuda
