// A block takes a row and holds it in registers, so that memory is read once: 4 bytes an element in
// bf16 forward, 6 backward, and for the weight's gradient 8 more for each column of
// rms_norm_partials() rows. libtorch's seven operators move 36 and take 183 us for [4096, 3072] on
// an H200, where a copy of as much takes 14.
#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/rms_norm.h"

namespace trestle::cuda {

namespace {

constexpr int kMostForward = 1024, kMostBackward = 384;  // threads; registers limit the latter
constexpr int kSumRows = 8;

template <class T, int kWidth, int kPacks>
__global__ void __launch_bounds__(kMostForward) norm_rows(RmsNormForward args) {
  const int packs = static_cast<int>(args.columns / kWidth);
  const T* from = static_cast<const T*>(args.x) + blockIdx.x * args.columns;
  const T* weight = static_cast<const T*>(args.weight);
  T* to = static_cast<T*>(args.y) + blockIdx.x * args.columns;
  Pack<T, kWidth> x[kPacks];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int pack = threadIdx.x + i * blockDim.x;
    if (pack >= packs) continue;
    x[i] = load<kWidth>(from + pack * kWidth);
#pragma unroll
    for (const T value : x[i].values) squares += to_float(value) * to_float(value);
  }
  const float mean = block_sum(squares) / static_cast<float>(args.columns);
  const float inverse = rsqrtf(mean + static_cast<float>(args.eps));
  if (threadIdx.x == 0 && args.inverse_rms != nullptr) args.inverse_rms[blockIdx.x] = inverse;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int pack = threadIdx.x + i * blockDim.x;
    if (pack >= packs) continue;
    const auto w = load<kWidth>(weight + pack * kWidth);
    Pack<T, kWidth> y;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const T normed = rounded<T>(to_float(x[i].values[j]) * inverse);
      y.values[j] = rounded<T>(to_float(w.values[j]) * to_float(normed));
    }
    store<kWidth>(to + pack * kWidth, y);
  }
}

// With h = x / rms and g = up * w: dx = (g - h mean(g h)) / rms, dw = sum over rows of up * h.
template <class T, int kWidth, int kPacks, bool kWeightTrains>
__global__ void __launch_bounds__(kMostBackward) norm_rows_backward(RmsNormBackward args) {
  const int packs = static_cast<int>(args.columns / kWidth);
  const T* weight = static_cast<const T*>(args.weight);
  float dw[kPacks][kWidth] = {};
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* from = static_cast<const T*>(args.x) + row * args.columns;
    const T* above = static_cast<const T*>(args.up) + row * args.columns;
    T* to = static_cast<T*>(args.dx) + row * args.columns;
    const float inverse = args.inverse_rms[row];
    Pack<T, kWidth> x[kPacks], up[kPacks];
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int pack = threadIdx.x + i * blockDim.x;
      if (pack >= packs) continue;
      x[i] = load<kWidth>(from + pack * kWidth);
      up[i] = load<kWidth>(above + pack * kWidth);
      const auto w = load<kWidth>(weight + pack * kWidth);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        dot += to_float(up[i].values[j]) * to_float(w.values[j]) * to_float(x[i].values[j]);
      }
    }
    const float mean = block_sum(dot) * inverse / static_cast<float>(args.columns);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int pack = threadIdx.x + i * blockDim.x;
      if (pack >= packs) continue;
      const auto w = load<kWidth>(weight + pack * kWidth);
      Pack<T, kWidth> dx;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const float above_j = to_float(up[i].values[j]);
        const float h = to_float(x[i].values[j]) * inverse;
        dx.values[j] = rounded<T>(inverse * (above_j * to_float(w.values[j]) - h * mean));
        if constexpr (kWeightTrains) dw[i][j] += above_j * to_float(rounded<T>(h));
      }
      store<kWidth>(to + pack * kWidth, dx);
    }
  }
  if constexpr (kWeightTrains) {
    float* partial = args.partial + blockIdx.x * args.columns;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int pack = threadIdx.x + i * blockDim.x;
      if (pack >= packs) continue;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) partial[pack * kWidth + j] = dw[i][j];
    }
  }
}

// Each block sums 32 columns: its warps every kSumRows-th row, then one warp theirs.
template <class T>
__global__ void sum_partials(const float* partial, int64_t rows, int64_t columns, void* sums) {
  __shared__ Shared<float, kSumRows * kLanes> of_warps;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t column = int64_t{blockIdx.x} * kLanes + lane;
  float sum = 0;
  if (column < columns) {
    for (int64_t row = warp; row < rows; row += kSumRows) sum += partial[row * columns + column];
  }
  of_warps[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  for (int i = 1; i < kSumRows; ++i) sum += of_warps[i * kLanes + lane];
  static_cast<T*>(sums)[column] = rounded<T>(sum);
}

// fn(width, packs a thread), as types: whole vectors where rows have them, else one element each.
template <class T, class Function>
int with_packs(int64_t columns, bool aligned, const Function& fn) {
  if (aligned && columns % kFullWidth<T> == 0) {
    return fn(std::integral_constant<int, kFullWidth<T>>(), std::integral_constant<int, 4>());
  }
  return fn(std::integral_constant<int, 1>(), std::integral_constant<int, 16>());
}

// The fewest whole warps that hold a row; 0 where they are too many.
int64_t threads_for(int64_t columns, int64_t elements_a_thread, int64_t most) {
  const int64_t threads = ceil_div(ceil_div(columns, elements_a_thread), int64_t{kLanes}) * kLanes;
  return threads <= most ? threads : 0;
}

}  // namespace

int rms_norm_forward(const RmsNormForward& args, Stream stream) {
  const bool aligned = is_aligned(args.x) && is_aligned(args.weight) && is_aligned(args.y);
  return with_type(args.type, [&](auto t) {
    using T = decltype(t);
    return with_packs<T>(args.columns, aligned, [&](auto width, auto packs) {
      const int64_t threads = threads_for(args.columns, width * packs, kMostForward);
      if (threads == 0) return static_cast<int>(cudaErrorInvalidValue);
      return launch(norm_rows<T, width, packs>, args.rows, threads, 0, stream, args);
    });
  });
}

int rms_norm_backward(const RmsNormBackward& args, Stream stream) {
  const bool aligned =
      is_aligned(args.x) && is_aligned(args.weight) && is_aligned(args.up) && is_aligned(args.dx);
  const int64_t partials = rms_norm_partials(args.rows);
  return with_type(args.type, [&](auto t) {
    using T = decltype(t);
    const int failed = with_packs<T>(args.columns, aligned, [&](auto width, auto packs) {
      const int64_t threads = threads_for(args.columns, width * packs, kMostBackward);
      if (threads == 0) return static_cast<int>(cudaErrorInvalidValue);
      if (args.dweight == nullptr) {
        return launch(norm_rows_backward<T, width, packs, false>, args.rows, threads, 0, stream,
                      args);
      }
      return launch(norm_rows_backward<T, width, packs, true>, partials, threads, 0, stream, args);
    });
    if (failed != 0 || args.dweight == nullptr) return failed;
    return launch(sum_partials<T>, ceil_div(args.columns, int64_t{kLanes}), kSumRows * kLanes, 0,
                  stream, args.partial, partials, args.columns, args.dweight);
  });
}

}  // namespace trestle::cuda
