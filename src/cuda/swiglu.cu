// A thread takes 16 bytes of each row: 6 bytes an element in bf16 forward, 10 backward, the least
// there is. libtorch's silu and product move 10, their gradients 18; in one kernel the product is
// rounded once, and silu(gate) need not be kept.
#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/swiglu.h"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// Where the pack of this thread is: y's rows lie beside each other, the halves' `stride` apart.
struct Place {
  int64_t in_y, in_halves;
};

template <int kWidth>
__device__ __forceinline__ bool find(int64_t rows, int64_t columns, int64_t stride, Place& place) {
  const int64_t packs = columns / kWidth;  // of a row
  const int64_t pack = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = pack / packs;
  place = {pack * kWidth, row * stride + (pack - row * packs) * kWidth};
  return row < rows;
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) gated(SwigluForward args) {
  Place place;
  if (!find<kWidth>(args.rows, args.columns, args.stride, place)) return;
  const auto gate = load<kWidth>(static_cast<const T*>(args.gate) + place.in_halves);
  const auto up = load<kWidth>(static_cast<const T*>(args.up) + place.in_halves);
  Pack<T, kWidth> y;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float g = to_float(gate.values[i]);
    y.values[i] = rounded<T>(g * sigmoid(g) * to_float(up.values[i]));
  }
  store<kWidth>(static_cast<T*>(args.y) + place.in_y, y);
}

// silu'(g) = s + g s (1 - s), s = sigmoid(g).
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) gated_backward(SwigluBackward args) {
  Place place;
  if (!find<kWidth>(args.rows, args.columns, args.stride, place)) return;
  const auto dy = load<kWidth>(static_cast<const T*>(args.dy) + place.in_y);
  const auto gate = load<kWidth>(static_cast<const T*>(args.gate) + place.in_halves);
  const auto up = load<kWidth>(static_cast<const T*>(args.up) + place.in_halves);
  Pack<T, kWidth> dgate, dup;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float g = to_float(gate.values[i]), d = to_float(dy.values[i]), s = sigmoid(g);
    dgate.values[i] = rounded<T>(d * to_float(up.values[i]) * s * (1 + g * (1 - s)));
    dup.values[i] = rounded<T>(d * g * s);
  }
  store<kWidth>(static_cast<T*>(args.dgate) + place.in_halves, dgate);
  store<kWidth>(static_cast<T*>(args.dup) + place.in_halves, dup);
}

// fn(width), as a type: a whole vector where rows have them, else one element.
template <class T, class Args, class Function>
int with_width(const Args& args, bool aligned, const Function& fn) {
  constexpr int kWidth = kFullWidth<T>;
  if (aligned && args.columns % kWidth == 0 && args.stride % kWidth == 0) {
    return fn(std::integral_constant<int, kWidth>());
  }
  return fn(std::integral_constant<int, 1>());
}

template <class Args>
int64_t blocks_of(const Args& args, int width) {
  return ceil_div(args.rows * (args.columns / width), int64_t{kThreads});
}

}  // namespace

int swiglu_forward(const SwigluForward& args, Stream stream) {
  const bool aligned = is_aligned(args.gate) && is_aligned(args.up) && is_aligned(args.y);
  return with_type(args.type, [&](auto t) {
    using T = decltype(t);
    return with_width<T>(args, aligned, [&](auto width) {
      return launch(gated<T, width>, blocks_of(args, width), kThreads, 0, stream, args);
    });
  });
}

int swiglu_backward(const SwigluBackward& args, Stream stream) {
  const bool aligned = is_aligned(args.dy) && is_aligned(args.gate) && is_aligned(args.up) &&
                       is_aligned(args.dgate) && is_aligned(args.dup);
  return with_type(args.type, [&](auto t) {
    using T = decltype(t);
    return with_width<T>(args, aligned, [&](auto width) {
      return launch(gated_backward<T, width>, blocks_of(args, width), kThreads, 0, stream, args);
    });
  });
}

}  // namespace trestle::cuda
