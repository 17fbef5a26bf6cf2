// Flash-decoding (Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference"): the
// keys of a sequence are split over blocks, whose softmaxes are joined by a second kernel (Milakov
// and Gimelshein 2018, "Online normalizer calculation for softmax"). A block takes a part of the
// keys of one group and all heads of the group, so that keys and values are read once: 2 bytes an
// element in bf16. A warp takes a key at a time, a lane its share of the head. How many blocks
// there are depends on the capacity alone; those behind a sequence's last key end at once.
#include <type_traits>

#include "cuda/decode_attention.h"
#include "cuda/device.cuh"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kLanes;
// Keys that a warp has on their way at once.
constexpr int kTurns = 4;
// Largest score, sum of weights and weighted values of some keys, a lane's share of the values.
template <int kHeads, int kWidth>
struct Softmax {
  float most[kHeads], sum[kHeads] = {}, values[kHeads][kWidth] = {};

  __device__ Softmax() {
#pragma unroll
    for (int n = 0; n < kHeads; ++n) most[n] = -INFINITY;
  }

  __device__ void add(int n, float score, const float (&v)[kWidth]) {
    const float now = score > most[n] ? score : most[n];
    const float kept = __expf(most[n] - now), weight = __expf(score - now);
    most[n] = now;
    sum[n] = sum[n] * kept + weight;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[n][i] = values[n][i] * kept + weight * v[i];
  }
};

template <class T>
__device__ const T* head(const HeadRows& rows, int64_t sequence, int64_t group) {
  return static_cast<const T*>(rows.data) + sequence * rows.token_stride +
         group * rows.group_stride;
}

template <class T, int kWidth>
__device__ __forceinline__ void read(const T* from, bool has_share, float scale,
                                     float (&to)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = 0;
  if (!has_share) return;
  const auto pack = load<kWidth>(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = to_float(pack.values[i]) * scale;
}

// The block's warps' softmaxes as one, into `partial`: of each head its values, then most and sum.
template <int kHeads, int kWidth>
__device__ void write_joined(const Softmax<kHeads, kWidth>& mine, int heads, int head_dim,
                             float* partial) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int row = head_dim + static_cast<int>(kOfSoftmax), of_warp = heads * row;
  auto shared = dynamic_shared<float>();  // [kWarps, heads, row]
#pragma unroll
  for (int n = 0; n < kHeads; ++n) {
    if (n >= heads) continue;
    const int to = warp * of_warp + n * row;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if (lane * kWidth + i < head_dim) shared[to + lane * kWidth + i] = mine.values[n][i];
    }
    if (lane == 0) {
      shared[to + head_dim] = mine.most[n];
      shared[to + head_dim + 1] = mine.sum[n];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < of_warp; i += kThreads) {
    const int column = i % row, of_head = i - column;
    float most = -INFINITY, total = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float each = shared[w * of_warp + of_head + head_dim];
      most = each > most ? each : most;
    }
    for (int w = 0; w < kWarps; ++w) {
      total += __expf(shared[w * of_warp + of_head + head_dim] - most) * shared[w * of_warp + i];
    }
    partial[i] = column == head_dim ? most : total;
  }
}

template <class T, int kHeads, int kWidth>
__global__ void __launch_bounds__(kThreads)
    attend_to_split(DecodeAttention args, KeySplits splits) {
  const int64_t split = blockIdx.x % splits.count;
  const int64_t slab = blockIdx.x / splits.count;  // of a sequence's group
  const int64_t sequence = slab / args.groups, group = slab % args.groups;
  const int64_t position = args.positions[sequence], first = split * splits.keys;
  if (position < first || position >= args.capacity) return;
  const int64_t behind = first + splits.keys;
  const int64_t end = position < behind ? position + 1 : behind;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int head_dim = static_cast<int>(args.head_dim), heads = static_cast<int>(args.heads);
  T* keys = static_cast<T*>(args.keys) + slab * args.capacity * head_dim;
  T* values = static_cast<T*>(args.values) + slab * args.capacity * head_dim;
  if (position < behind) {
    for (int i = threadIdx.x; i < head_dim; i += kThreads) {
      keys[position * head_dim + i] = head<T>(args.k, sequence, group)[i];
      values[position * head_dim + i] = head<T>(args.v, sequence, group)[i];
    }
    __syncthreads();
  }
  const bool has_share = lane * kWidth < head_dim;
  const float scale = 1 / sqrtf(static_cast<float>(head_dim));
  float q[kHeads][kWidth];
#pragma unroll
  for (int n = 0; n < kHeads; ++n) {
    read(head<T>(args.q, sequence, group) + n * head_dim + lane * kWidth, has_share && n < heads,
         scale, q[n]);
  }
  Softmax<kHeads, kWidth> softmax;
#pragma unroll(kTurns)
  for (int64_t key = first + warp; key < end; key += kWarps) {
    float k[kWidth], v[kWidth];
    read(keys + key * head_dim + lane * kWidth, has_share, 1, k);
    read(values + key * head_dim + lane * kWidth, has_share, 1, v);
#pragma unroll
    for (int n = 0; n < kHeads; ++n) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) score += q[n][i] * k[i];
      softmax.add(n, warp_sum(score), v);
    }
  }
  write_joined(softmax, heads, head_dim,
               args.partial + int64_t{blockIdx.x} * heads * (head_dim + kOfSoftmax));
}

// A block takes a group of a sequence: y from the partial sums of its splits.
template <class T>
__global__ void __launch_bounds__(kThreads) join_splits(DecodeAttention args, KeySplits splits) {
  const int64_t slab = blockIdx.x, position = args.positions[slab / args.groups];
  const int row = static_cast<int>(args.head_dim + kOfSoftmax);
  const int head_dim = static_cast<int>(args.head_dim), count = static_cast<int>(args.heads) * row;
  const bool is_held = position >= 0 && position < args.capacity;
  const int64_t used = is_held ? position / splits.keys + 1 : 0;
  const float* partial = args.partial + slab * splits.count * count;
  T* y = static_cast<T*>(args.y) + slab * args.heads * head_dim;
  for (int i = threadIdx.x; i < static_cast<int>(args.heads) * head_dim; i += kThreads) {
    const float* of_head = partial + i / head_dim * row;
    float most = -INFINITY, sum = 0, total = 0;
    for (int64_t split = 0; split < used; ++split) {
      const float each = of_head[split * count + head_dim];
      most = each > most ? each : most;
    }
    for (int64_t split = 0; split < used; ++split) {
      const float* of_split = of_head + split * count;
      const float kept = __expf(of_split[head_dim] - most);
      sum += kept * of_split[head_dim + 1];
      total += kept * of_split[i % head_dim];
    }
    y[i] = rounded<T>(total / sum);  // of no keys 0 / 0
  }
}

// fn(integral_constant) for the least of `kValues` that is at least `value`.
template <int... kValues, class Function>
int with_at_least(int64_t value, const Function& fn) {
  int result = cudaErrorInvalidValue;
  static_cast<void>(
      ((value <= kValues && (result = fn(std::integral_constant<int, kValues>()), true)) || ...));
  return result;
}

bool has_vectors(const HeadRows& rows, int width, size_t bytes) {
  return reinterpret_cast<uintptr_t>(rows.data) % (width * bytes) == 0 &&
         rows.token_stride % width == 0 && rows.group_stride % width == 0;
}

}  // namespace

int decode_attention(const DecodeAttention& args, Stream stream) {
  if (!decode_attention_takes(args.heads, args.head_dim) || args.capacity < 1) {
    return cudaErrorInvalidValue;
  }
  const int64_t slabs = args.sequences * args.groups;
  const KeySplits splits = key_splits(args.capacity);
  const size_t shared = sizeof(float) * kWarps * args.heads * (args.head_dim + kOfSoftmax);
  return with_type(args.type, [&](auto t) {
    using T = decltype(t);
    const int width = lane_share(args.head_dim);
    for (const HeadRows& rows : {args.q, HeadRows{args.keys, 0, 0}, HeadRows{args.values, 0, 0}}) {
      if (!has_vectors(rows, width, sizeof(T))) return int{cudaErrorInvalidValue};
    }
    const int failed = with_at_least<1, 2, 4, 8>(args.heads, [&](auto heads) {
      return with_at_least<1, 2, 4, 8>(width, [&](auto lane_width) {
        return launch(attend_to_split<T, heads, lane_width>, slabs * splits.count, kThreads, shared,
                      stream, args, splits);
      });
    });
    if (failed != cudaSuccess) return failed;
    return launch(join_splits<T>, slabs, kThreads, 0, stream, args, splits);
  });
}

}  // namespace trestle::cuda
