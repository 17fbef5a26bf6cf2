// A block takes a token; each thread holds 16 bytes of cosines and sines and turns the same columns
// of head after head: 4 bytes an element in bf16, in place or not. libtorch's negated half, cat,
// two products, a sum and the query's scale move 23.
#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/rope.h"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 256;

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) turn(Rope args) {
  const int64_t token = blockIdx.x, half = args.head_dim / 2;
  const int packs = static_cast<int>(half / kWidth);  // of half a head
  const int heads = static_cast<int>(args.groups * args.heads);
  const T* from = static_cast<const T*>(args.from.data) + token * args.from.token_stride;
  T* to = static_cast<T*>(args.to.data) + token * args.to.token_stride;
  const float scale =
      args.query_scale == nullptr ? 1 : to_float(static_cast<const T*>(args.query_scale)[token]);
  const float sign = args.backward ? -1 : 1;
  const int at_once = packs < kThreads ? kThreads / packs : 1;  // heads
  const int thread = static_cast<int>(threadIdx.x);
  if (packs < kThreads && thread >= at_once * packs) return;  // a head is turned once
  for (int column = thread % packs; column < packs; column += kThreads) {
    const int64_t angle = token * args.head_dim + column * kWidth;
    const auto cos = load<kWidth>(static_cast<const T*>(args.cos) + angle);
    const auto sin = load<kWidth>(static_cast<const T*>(args.sin) + angle);
    for (int head = thread / packs; head < heads; head += at_once) {
      const int64_t group = head / args.heads, member = head - group * args.heads;
      const int64_t offset = member * args.head_dim + column * kWidth;
      const T* source = from + group * args.from.group_stride + offset;
      T* target = to + group * args.to.group_stride + offset;
      const float times = member < args.scaled_heads ? scale : 1;
      auto a = load<kWidth>(source), b = load<kWidth>(source + half);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float c = to_float(cos.values[i]) * times, s = sign * to_float(sin.values[i]) * times;
        const float x = to_float(a.values[i]), y = to_float(b.values[i]);
        a.values[i] = rounded<T>(x * c - y * s);
        b.values[i] = rounded<T>(y * c + x * s);
      }
      store<kWidth>(target, a);
      store<kWidth>(target + half, b);
    }
  }
}

bool has_vectors(const HeadRows& rows, int width) {
  return is_aligned(rows.data) && rows.token_stride % width == 0 && rows.group_stride % width == 0;
}

}  // namespace

int rope(const Rope& args, Stream stream) {
  if (args.head_dim % 2 != 0) return cudaErrorInvalidValue;
  const auto launched = [&](auto t, auto width) {
    using T = decltype(t);
    return launch(turn<T, width>, args.tokens, kThreads, 0, stream, args);
  };
  return with_type(args.type, [&](auto t) {
    constexpr int kWidth = kFullWidth<decltype(t)>;
    if (args.head_dim / 2 % kWidth == 0 && has_vectors(args.from, kWidth) &&
        has_vectors(args.to, kWidth) && is_aligned(args.cos) && is_aligned(args.sin)) {
      return launched(t, std::integral_constant<int, kWidth>());
    }
    return launched(t, std::integral_constant<int, 1>());
  });
}

}  // namespace trestle::cuda
