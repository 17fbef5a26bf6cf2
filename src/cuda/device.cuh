// What the device code of all kernels shares: types, vectors of 16 bytes, sums of a block,
// launches. Included by .cu files alone. These compile with nvcc, and as C++ for the emulator that
// proves them on a CPU (tests/kernels/host_cuda), whose headers then stand in for CUDA's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/call.h"

namespace trestle::cuda {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFF;

#ifdef __CUDACC__
/// An array for `__shared__`; the emulator's checks the index.
template <class T, int kCount>
struct Shared {
  alignas(16) T values[kCount];
  __device__ T& operator[](int64_t i) { return values[i]; }
};

/// The shared memory that a launch asks for.
template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ uint4 bytes[];
  return reinterpret_cast<T*>(bytes);
}

__device__ __forceinline__ void check_aligned(const void*, size_t) {}
#else
using host_cuda::check_aligned, host_cuda::dynamic_shared, host_cuda::Shared;
#endif

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T rounded(float x) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

/// kWidth values that are read and written at once.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T values[kWidth];
};

/// Of 16 bytes.
template <class T>
constexpr int kFullWidth = 16 / sizeof(T);

template <int kWidth, class T>
__device__ __forceinline__ Pack<T, kWidth> load(const T* from) {
  check_aligned(from, sizeof(Pack<T, kWidth>));
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}

template <int kWidth, class T>
__device__ __forceinline__ void store(T* to, const Pack<T, kWidth>& pack) {
  check_aligned(to, sizeof(pack));
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

/// The sum over a warp, in every lane, in an order that is always the same.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, lanes);
  }
  return value;
}

/// The sum over a block of whole warps, in every thread. All threads call it.
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  __shared__ Shared<T, kLanes> of_warps;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  value = warp_sum(value);
  __syncthreads();  // the last call's have been read
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kLanes ? of_warps[lane] : T{0});
}

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

inline bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

/// fn(T{}) for the type that `type` names.
template <class Function>
int with_type(Type type, const Function& fn) {
  return type == Type::kFloat ? fn(float{}) : fn(__nv_bfloat16{});
}

/// Shared memory of a block that a kernel has without asking.
constexpr size_t kPlainSharedBytes = 48 << 10;

/// `blocks` of `threads` along x; none is no error.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), int64_t blocks, int64_t threads, size_t shared_bytes,
           Stream stream, Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > 0x7FFFFFFF) return cudaErrorInvalidValue;
  if (shared_bytes > kPlainSharedBytes) {
    const cudaError_t failed = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    static_cast<int>(shared_bytes));
    if (failed != cudaSuccess) return failed;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace trestle::cuda
