// A warp takes a row of the weight, 16 bytes a lane at a time (of NF4 8), and keeps a sum for each
// row of x, which comes from the L1 cache: the weight is read once, 2 bytes an element in
// bf16, 1.06 in 8 bits, 0.56 in NF4, 1 in FP8. cuBLAS reads [9216 -> 3072] at 1,820 GB/s of 4,140
// and knows no codes.
#include <type_traits>

#include "cuda/quantized_formats.cuh"
#include "cuda/row_product.h"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 128;
// Turns of the loop that are on their way at once: fewer where each needs more registers.
template <int kWidth, int kBatch>
constexpr int kTurns = (kWidth >= 16 ? 2 : 4) / (kBatch > 4   ? kWidth >= 16 ? 2 : 4
                                                 : kBatch > 1 ? 2
                                                              : 1);

// A weight of the type of x.
template <class T>
struct PlainForm {
  static constexpr int kCodesPerByte = 0;
  const T* values;
  int64_t columns;

  template <int kWidth>
  __device__ void read(Nf4Table&, int64_t row, int64_t column, float (&out)[kWidth]) const {
    const auto pack = load<kWidth>(values + row * columns + column);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out[i] = to_float(pack.values[i]);
  }
};

template <class T, int kWidth, int kBatch, class Form>
__global__ void __launch_bounds__(kThreads) product(RowProduct args, Form form) {
  __shared__ Nf4Table table;
  if constexpr (Form::kCodesPerByte == 2) fill(table);
  constexpr int kStep = kWidth < kFullWidth<T> ? kWidth : kFullWidth<T>;  // of x at once
  const int lane = threadIdx.x % kLanes;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (row >= args.rows) return;  // a whole warp
  const T* x = static_cast<const T*>(args.x);
  float sums[kBatch] = {};
#pragma unroll(kTurns <kWidth, kBatch>)
  for (int64_t column = lane * kWidth; column < args.columns; column += kLanes * kWidth) {
    float weights[kWidth];
    form.read(table, row, column, weights);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (b >= args.batch) continue;
#pragma unroll
      for (int first = 0; first < kWidth; first += kStep) {
        const auto pack = load<kStep>(x + b * args.columns + column + first);
#pragma unroll
        for (int i = 0; i < kStep; ++i) sums[b] += weights[first + i] * to_float(pack.values[i]);
      }
    }
  }
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
    const float sum = warp_sum(sums[b]) * static_cast<float>(args.scale);
    if (lane != 0 || b >= args.batch) continue;
    T& y = static_cast<T*>(args.y)[b * args.rows + row];
    y = rounded<T>(args.add ? to_float(y) + sum : sum);
  }
}

template <int kVector, class T, class Form>
int products(const RowProduct& args, const Form& form, bool vectors, Stream stream) {
  if (args.batch > kMostProductRows) return cudaErrorInvalidValue;
  const int64_t blocks = args.batch == 0 ? 0 : ceil_div(args.rows, int64_t{kThreads / kLanes});
  const auto launched = [&](auto width, auto batch) {
    return launch(product<T, width, batch, Form>, blocks, kThreads, 0, stream, args, form);
  };
  constexpr std::integral_constant<int, kVector> kWide;
  constexpr std::integral_constant<int, kMostProductRows> kMost;
  if (!vectors || !is_aligned(args.x) || args.columns % kVector != 0) {
    return launched(std::integral_constant<int, 1>(), kMost);
  }
  if (args.batch == 1) return launched(kWide, std::integral_constant<int, 1>());
  if (args.batch <= 4) return launched(kWide, std::integral_constant<int, 4>());
  return launched(kWide, kMost);
}

template <class Form>
int products_of_codes(const RowProduct& args, const Form& form, Stream stream) {
  constexpr int kVector = 16;
  return with_type(args.type, [&](auto t) {
    return products<kVector, decltype(t)>(args, form, has_vectors(form, kVector), stream);
  });
}

}  // namespace

int row_product(const RowProduct& args, const void* weight, Stream stream) {
  return with_type(args.type, [&](auto t) {
    using T = decltype(t);
    const PlainForm<T> form{static_cast<const T*>(weight), args.columns};
    return products<kFullWidth<T>, T>(args, form, is_aligned(weight), stream);
  });
}

int row_product_nf4(const RowProduct& args, const QuantizedCodes& weight, Stream stream) {
  return products_of_codes(args, Nf4Form{weight}, stream);
}

int row_product_int8(const RowProduct& args, const QuantizedCodes& weight, Stream stream) {
  return products_of_codes(args, Int8Form{weight}, stream);
}

int row_product_fp8(const RowProduct& args, const Fp8Codes& weight, Stream stream) {
  return products_of_codes(args, Fp8Form{weight}, stream);
}

}  // namespace trestle::cuda
