// A block takes a row and reads it once for its largest logit and the sum of exponentials together
// (Milakov and Gimelshein 2018), then once more for the gradient, when most of it is still in the
// L2 cache: 132 rows of 131,072 are 34 MB in bf16. 6 bytes a logit in bf16 and at best 4 from
// memory; the twin in fp32 moves 44 and keeps a copy of twice the size.
#include <type_traits>

#include "cuda/cross_entropy.h"
#include "cuda/device.cuh"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 512, kAtOnce = 4;  // packs that are on their way to a thread

// Of some logits: the largest, and the sum of exp(logit - largest).
struct Softmax {
  float largest, sum;
};

__device__ constexpr Softmax no_logits() { return {-INFINITY, 0}; }

// exp(x - largest), where no logit is yet larger than -inf too; a NaN stays one.
__device__ __forceinline__ float scaled_exp(float x, float largest) {
  return x == -INFINITY ? 0 : __expf(x - largest);
}

__device__ __forceinline__ Softmax joined(Softmax a, Softmax b) {
  const float largest = fmaxf(a.largest, b.largest);
  const auto part = [&](Softmax x) {
    return x.largest == largest ? x.sum : x.sum * __expf(x.largest - largest);
  };
  return {largest, part(a) + part(b)};
}

__device__ __forceinline__ Softmax of_warp(Softmax softmax) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    // Both lanes of a pair join them in one order, so that they get the same bits.
    const Softmax other{__shfl_xor_sync(kAllLanes, softmax.largest, lanes),
                        __shfl_xor_sync(kAllLanes, softmax.sum, lanes)};
    const bool is_first = (threadIdx.x & lanes) == 0;
    softmax = is_first ? joined(softmax, other) : joined(other, softmax);
  }
  return softmax;
}

__device__ __forceinline__ Softmax of_block(Softmax softmax) {
  __shared__ Shared<Softmax, kThreads / kLanes> of_warps;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  softmax = of_warp(softmax);
  if (lane == 0) of_warps[warp] = softmax;
  __syncthreads();
  return of_warp(lane < static_cast<int>(blockDim.x) / kLanes ? of_warps[lane] : no_logits());
}

template <class T, int kWidth>
__device__ __forceinline__ Softmax with_pack(Softmax softmax, const Pack<T, kWidth>& pack) {
  Softmax here = no_logits();
#pragma unroll
  for (const T x : pack.values) here.largest = fmaxf(here.largest, to_float(x));
#pragma unroll
  for (const T x : pack.values) here.sum += scaled_exp(to_float(x), here.largest);
  return joined(softmax, here);
}

// fn(first index, pack) for all packs of this thread, kAtOnce of them read together.
template <int kWidth, class T, class Function>
__device__ __forceinline__ void for_packs(const T* row, int64_t columns, const Function& fn) {
  const int64_t step = int64_t{blockDim.x} * kWidth;
  for (int64_t first = threadIdx.x * kWidth; first < columns; first += kAtOnce * step) {
    Pack<T, kWidth> packs[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * step < columns) packs[i] = load<kWidth>(row + first + i * step);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * step < columns) fn(first + i * step, packs[i]);
    }
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 1) rows_of_logits(CrossEntropy args) {
  const int64_t target = args.targets[blockIdx.x];
  T* row = static_cast<T*>(args.logits) + blockIdx.x * args.columns;
  Softmax softmax{0, 1};
  if (target >= 0) {
    const float of_target = target < args.columns ? to_float(row[target]) : NAN;
    Softmax mine = no_logits();
    for_packs<kWidth>(row, args.columns,
                      [&](int64_t, const Pack<T, kWidth>& pack) { mine = with_pack(mine, pack); });
    softmax = of_block(mine);
    if (threadIdx.x == 0) {
      args.losses[blockIdx.x] = logf(softmax.sum) - (of_target - softmax.largest);
    }
  } else if (threadIdx.x == 0) {
    args.losses[blockIdx.x] = 0;
  }
  if (threadIdx.x == 0 && args.largest != nullptr) args.largest[blockIdx.x] = softmax.largest;
  if (threadIdx.x == 0 && args.sums != nullptr) args.sums[blockIdx.x] = softmax.sum;
  if (!args.gradient) return;
  const float inverse = target >= 0 ? 1 / softmax.sum : 0;
  for_packs<kWidth>(row, args.columns, [&](int64_t first, Pack<T, kWidth>& pack) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float share = __expf(to_float(pack.values[i]) - softmax.largest) * inverse;
      const float onehot = first + i == target ? 1 : 0;
      pack.values[i] = rounded<T>(target >= 0 ? share - onehot : 0);
    }
    store<kWidth>(row + first, pack);
  });
}

}  // namespace

int cross_entropy(const CrossEntropy& args, Stream stream) {
  return with_type(args.type, [&](auto t) {
    using T = decltype(t);
    constexpr int kWidth = kFullWidth<T>;
    const auto launched = [&](auto width) {
      const int64_t packs = ceil_div(args.columns, int64_t{width} * kLanes) * kLanes;
      const int64_t threads = packs < kThreads ? packs : kThreads;
      return launch(rows_of_logits<T, width>, args.rows, threads, 0, stream, args);
    };
    if (is_aligned(args.logits) && args.columns % kWidth == 0) {
      return launched(std::integral_constant<int, kWidth>());
    }
    return launched(std::integral_constant<int, 1>());
  });
}

}  // namespace trestle::cuda
