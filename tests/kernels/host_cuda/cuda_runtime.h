// Stands in for CUDA's header of this name where the emulator runs a .cu file: the words that our
// kernels use, and no others. There is no atomicAdd of floats on purpose: its sum depends on the
// order of the threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <type_traits>

#include "kernels/host_cuda/emulator.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

inline const uint3 &threadIdx = host_cuda::place.thread, &blockIdx = host_cuda::place.block;
inline const dim3 &blockDim = host_cuda::place.block_size, &gridDim = host_cuda::place.grid_size;

using cudaStream_t = struct CUstream_st*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "invalid argument" : "no error";
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline std::map<const void*, int> largest_dynamic_shared;  // of kernels that asked for more

inline cudaError_t cudaFuncSetAttribute(const void* kernel, int, int bytes) {
  largest_dynamic_shared[kernel] = bytes;
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const auto asked = largest_dynamic_shared.find(reinterpret_cast<const void*>(kernel));
  const int most = asked == largest_dynamic_shared.end() ? 48 << 10 : asked->second;
  if (config->dynamicSmemBytes > static_cast<size_t>(most)) return cudaErrorInvalidValue;
  host_cuda::run(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                 [&] { kernel(arguments...); });
  return cudaSuccess;
}

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline void __syncthreads(host_cuda::Site site = host_cuda::Site::current()) {
  host_cuda::barrier(site);
}
inline void __syncwarp(unsigned mask = ~0U, host_cuda::Site site = host_cuda::Site::current()) {
  host_cuda::exchange(mask, 0, site);
}

namespace host_cuda {

template <class T>
T shuffled(unsigned mask, T value, int from, const Site& site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, site)[static_cast<size_t>(from)];
  if ((mask >> from & 1) == 0) {
    throw Fault("a shuffle reads lane " + std::to_string(from) + ", which is not in its mask");
  }
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() {
  const Place& at = place;
  return static_cast<int>(
      (at.thread.x + at.block_size.x * (at.thread.y + at.block_size.y * at.thread.z)) % 32);
}

}  // namespace host_cuda

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, host_cuda::Site site = host_cuda::Site::current()) {
  return host_cuda::shuffled(mask, value, lane & 31, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes,
                  host_cuda::Site site = host_cuda::Site::current()) {
  return host_cuda::shuffled(mask, value, host_cuda::lane() ^ lanes, site);
}
// A lane whose source would lie beyond the warp keeps its own value.
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by,
                   host_cuda::Site site = host_cuda::Site::current()) {
  const int from = host_cuda::lane() + static_cast<int>(by);
  return host_cuda::shuffled(mask, value, from < 32 ? from : host_cuda::lane(), site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by,
                 host_cuda::Site site = host_cuda::Site::current()) {
  const int from = host_cuda::lane() - static_cast<int>(by);
  return host_cuda::shuffled(mask, value, from >= 0 ? from : host_cuda::lane(), site);
}

template <class T>
requires std::is_integral_v<T> T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
using std::isfinite, std::max, std::min;

namespace host_cuda {

// What device.cuh has as plain arrays on a card.
template <class T, int kCount>
class Shared {
 public:
  Shared() { poison_at_start(values_, sizeof(values_)); }
  T& operator[](int64_t i) {
    check_index(i, kCount);
    return values_[i];
  }

 private:
  alignas(16) T values_[kCount];
};

template <class T>
struct DynamicShared {
  T* data;
  int64_t count;
  T& operator[](int64_t i) const {
    check_index(i, count);
    return data[i];
  }
};
template <class T>
DynamicShared<T> dynamic_shared() {
  const std::span<std::byte> bytes = dynamic_shared_bytes();
  return {reinterpret_cast<T*>(bytes.data()), static_cast<int64_t>(bytes.size() / sizeof(T))};
}

}  // namespace host_cuda
