// A warp takes a row; one launch a projection, where libtorch's operators on blocks of 256 rows are
// about 22,000 launches a forward. The product W A^T, which reads the weight, stays the library's.
#include "cuda/device.cuh"
#include "cuda/dora.h"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads) norms_of_rows(DoraNorms args) {
  const int lane = threadIdx.x % kLanes;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (row >= args.rows) return;  // a whole warp
  const T* b = static_cast<const T*>(args.b) + row * args.rank;
  const auto scale = static_cast<float>(args.scale);
  double sum = 0;
  for (int64_t j = lane; j < args.rank; j += kLanes) {
    float of_gram = 0;
    for (int64_t k = 0; k < args.rank; ++k)
      of_gram += to_float(b[k]) * args.gram[k * args.rank + j];
    const float inner = 2 * args.products[row * args.rank + j] + scale * of_gram;
    sum += static_cast<double>(inner * scale * to_float(b[j]));
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  const double squares = args.squares[row] + sum;
  const auto norm = static_cast<float>(sqrt(squares < 0 ? 0 : squares));
  const float divisor = norm == 0 ? 1 : norm;
  args.norms[row] = divisor;
  if (args.gains == nullptr) return;
  args.gains[row] = to_float(static_cast<const T*>(args.magnitude)[row]) / divisor;
}

}  // namespace

int dora_norms(const DoraNorms& args, Stream stream) {
  return with_type(args.type, [&](auto t) {
    const int64_t blocks = ceil_div(args.rows, int64_t{kThreads / kLanes});
    return launch(norms_of_rows<decltype(t)>, blocks, kThreads, 0, stream, args);
  });
}

}  // namespace trestle::cuda
