// A block takes a row, which stays in the L2 cache: one pass for the best logit, one for the draw,
// and for each of top-k and top-p as many as a logit has bytes, in which the k-th largest, or the
// one that completes the mass, is found byte by byte without sorting. libtorch sorts the row (of
// 131,072: ten launches and more), or it travels to the host: 512 KB and a wait for every token.
// Weights are integers, so that sums do not depend on an order.
#include "cuda/device.cuh"
#include "cuda/philox.cuh"
#include "cuda/sample.h"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kByteValues = 256;
// A histogram of weights is held in two halves of 32 bits, which have atomics of their own, a copy
// for each lane, so that lanes never wait for each other: a copy sums kMostLogits / kLanes weights.
constexpr int kHalfBits = 19;
constexpr float kOne = static_cast<float>(1ULL << 2 * kHalfBits);
constexpr int kCells = kByteValues * kLanes;
constexpr size_t kSharedBytes = 2 * kCells * sizeof(unsigned);
static_assert((kMostLogits / kLanes) << kHalfBits <= int64_t{1} << 32);

// Keys are ordered as logits are: NaN above all, -0 equal to 0.
template <class T>
struct Ordered;
template <>
struct Ordered<float> {
  static constexpr uint32_t kInfinity = 0xFF800000;
  static constexpr uint32_t kMinusInfinity = 0x007FFFFF;
  __device__ static uint32_t key(float x) {
    const uint32_t bits = __float_as_uint(x == 0 ? 0 : x);
    if (x != x) return 0xFFFFFFFF;
    return bits >> 31 ? ~bits : bits | 0x80000000;
  }
  __device__ static float value(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7FFFFFFF : ~key);
  }
};
template <>
struct Ordered<__nv_bfloat16> {
  static constexpr uint32_t kInfinity = 0xFF80;
  static constexpr uint32_t kMinusInfinity = 0x007F;
  __device__ static uint32_t key(__nv_bfloat16 x) {
    return Ordered<float>::key(__bfloat162float(x)) >> 16;
  }
  __device__ static float value(uint32_t key) {
    return Ordered<float>::value(key >> 15 ? key << 16 : key << 16 | 0xFFFF);
  }
};

__device__ __forceinline__ uint64_t block_max(uint64_t value) {
  __shared__ Shared<uint64_t, kLanes> of_warps;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  for (const bool all : {false, true}) {
    if (all) value = of_warps[lane];
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      const uint64_t other = __shfl_xor_sync(kAllLanes, value, lanes);
      value = other > value ? other : value;
    }
    if (!all && lane == 0) of_warps[warp] = value;
    __syncthreads();
  }
  return value;
}

// Sums over the threads before this one, and over all.
struct Prefix {
  uint64_t before, all;
};

__device__ __forceinline__ uint64_t warp_prefix(uint64_t value) {  // this lane's included
#pragma unroll
  for (int lanes = 1; lanes < kLanes; lanes *= 2) {
    const uint64_t below = __shfl_up_sync(kAllLanes, value, lanes);
    if (static_cast<int>(threadIdx.x) % kLanes >= lanes) value += below;
  }
  return value;
}

__device__ __forceinline__ Prefix block_prefix(uint64_t value) {
  __shared__ Shared<uint64_t, kLanes> of_warps;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const uint64_t in_warp = warp_prefix(value);
  __syncthreads();  // the last call's have been read
  if (lane == kLanes - 1) of_warps[warp] = in_warp;
  __syncthreads();
  const uint64_t of_warp = of_warps[lane];
  const uint64_t until_warp = warp_prefix(of_warp);
  const uint64_t before_warp = __shfl_sync(kAllLanes, until_warp - of_warp, warp);
  return {before_warp + in_warp - value, __shfl_sync(kAllLanes, until_warp, kLanes - 1)};
}

struct Threshold {
  uint32_t key;
  uint64_t above;  // weight of larger keys
};

// The largest key for which the weights of it and all larger keys reach `target`.
// element(i, weight) gives i's key and weight, where it counts; keys have kBytes bytes.
template <int kBytes, class Element>
__device__ Threshold select(int64_t columns, uint64_t target, const Element& element) {
  __shared__ Shared<Threshold, 1> chosen;
  auto cells = dynamic_shared<unsigned>();
  const int lane = threadIdx.x % kLanes;
  Threshold found{0, 0};
  for (int byte = kBytes - 1; byte >= 0; --byte) {
    for (int i = threadIdx.x; i < 2 * kCells; i += kThreads) cells[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
      uint64_t weight = 0;
      const uint32_t key = element(i, weight);
      if (weight == 0 || static_cast<uint64_t>(key) >> 8 * (byte + 1) != found.key) continue;
      const int cell = static_cast<int>(key >> 8 * byte & 0xFF) * kLanes + lane;
      const auto low = static_cast<unsigned>(weight & ((1U << kHalfBits) - 1));
      const auto high = static_cast<unsigned>(weight >> kHalfBits);
      if (low != 0) atomicAdd(&cells[cell], low);
      if (high != 0) atomicAdd(&cells[kCells + cell], high);
    }
    __syncthreads();
    // A thread sums the copies of a value, the largest value first; neighbours begin at different
    // copies, which lie in different banks.
    const int value = kByteValues - 1 - static_cast<int>(threadIdx.x);
    uint64_t own = 0;
    for (int i = 0; value >= 0 && i < kLanes; ++i) {
      const int cell = value * kLanes + (i + lane) % kLanes;
      own += cells[cell] + (static_cast<uint64_t>(cells[kCells + cell]) << kHalfBits);
    }
    const uint64_t above = found.above + block_prefix(own).before;
    if (above < target && above + own >= target) {
      chosen[0] = {found.key << 8 | static_cast<uint32_t>(value), above};
    }
    __syncthreads();
    found = chosen[0];
    __syncthreads();
  }
  return found;
}

// What the options leave of a row: keys above `key`, and those equal to it from id `first` on.
template <class T>
struct Kept {
  const T* logits;
  float best, temperature;
  double min_p;
  uint32_t key = 0;
  int64_t first = 0;

  __device__ uint64_t weight_of(float logit) const {
    const float weight = expf((logit - best) / temperature);
    return weight < min_p ? 0 : static_cast<uint64_t>(weight * kOne);
  }
  __device__ uint64_t weight(int64_t i) const {
    const uint32_t own = Ordered<T>::key(logits[i]);
    return own > key || (own == key && i >= first) ? weight_of(to_float(logits[i])) : 0;
  }
};

template <class T>
__device__ void keep_top_k(Kept<T>& kept, int64_t columns, int64_t top_k) {
  kept.key = select<sizeof(T)>(columns, top_k, [&](int64_t i, uint64_t& weight) {
               weight = 1;
               return Ordered<T>::key(kept.logits[i]);
             }).key;
}

template <class T>
__device__ void keep_top_p(Kept<T>& kept, int64_t columns, double top_p) {
  uint64_t sum = 0;
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) sum += kept.weight(i);
  const uint64_t total = block_prefix(sum).all;
  const auto share = static_cast<uint64_t>(ceil(top_p * static_cast<double>(total)));
  const uint64_t target = min(share, total);  // fp64 may round the total up
  const Threshold edge = select<sizeof(T)>(columns, target, [&](int64_t i, uint64_t& weight) {
    weight = kept.weight(i);
    return Ordered<T>::key(kept.logits[i]);
  });
  kept.key = edge.key;
  // Of tokens that tie at the edge, so many of the highest ids as the mass asks for.
  const uint64_t each = kept.weight_of(Ordered<T>::value(edge.key));
  const uint64_t wanted = ceil_div(target - edge.above, each);
  uint64_t ties = 0;
  const auto is_tie = [&](int64_t i) { return Ordered<T>::key(kept.logits[i]) == edge.key; };
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) ties += is_tie(i) ? 1 : 0;
  if (wanted >= block_prefix(ties).all) return;
  kept.first = select<3>(columns, wanted, [&](int64_t i, uint64_t& weight) {
                 weight = is_tie(i) ? 1 : 0;
                 return static_cast<uint32_t>(i);
               }).key;
}

template <class T>
__device__ void draw(const Kept<T>& kept, int64_t columns, uint64_t random, int64_t* id) {
  // Neighbours go to one thread, so that sums run in the order of ids.
  const int64_t share = ceil_div(columns, int64_t{kThreads});
  const int64_t begin = min(threadIdx.x * share, columns), end = min(begin + share, columns);
  uint64_t sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += kept.weight(i);
  const Prefix prefix = block_prefix(sum);
  const uint64_t mark = __umul64hi(random, prefix.all);
  if (mark < prefix.before || mark >= prefix.before + sum) return;
  uint64_t running = prefix.before;
  for (int64_t i = begin; i < end; ++i) {
    running += kept.weight(i);
    if (running <= mark) continue;
    *id = i;
    return;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) sample_rows(Sample args) {
  const T* logits = static_cast<const T*>(args.logits) + blockIdx.x * args.columns;
  int64_t* id = args.ids + blockIdx.x;
  uint64_t best = 0;  // the key, and below it the lowest id
  for (int64_t i = threadIdx.x; i < args.columns; i += kThreads) {
    const uint64_t key = Ordered<T>::key(logits[i]);
    const uint64_t here = key << 32 | (0xFFFFFFFF - static_cast<uint64_t>(i));
    best = here > best ? here : best;
  }
  best = block_max(best);
  const auto best_key = static_cast<uint32_t>(best >> 32);
  const bool finite = best_key < Ordered<T>::kInfinity && best_key > Ordered<T>::kMinusInfinity;
  if (!finite || args.temperature == 0) {
    if (threadIdx.x == 0) {
      *id = finite ? static_cast<int64_t>(0xFFFFFFFF - (best & 0xFFFFFFFF)) : -1;
    }
    return;
  }
  Kept<T> kept{logits, Ordered<T>::value(best_key), static_cast<float>(args.temperature), 0};
  if (args.top_k > 0 && args.top_k < args.columns) keep_top_k(kept, args.columns, args.top_k);
  if (args.top_p < 1) keep_top_p(kept, args.columns, args.top_p);
  kept.min_p = args.min_p;
  draw(kept, args.columns, philox(args.seed, *args.offset, blockIdx.x), id);
}

}  // namespace

int sample(const Sample& args, Stream stream) {
  if (args.columns > kMostLogits) return cudaErrorInvalidValue;
  return with_type(args.type, [&](auto t) {
    return launch(sample_rows<decltype(t)>, args.rows, kThreads, kSharedBytes, stream, args);
  });
}

}  // namespace trestle::cuda
