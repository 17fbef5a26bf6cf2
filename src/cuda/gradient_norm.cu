// Two launches for all parameters, and no host read: 2 bytes a gradient in bf16. libtorch takes one
// and more for each parameter's norm and one to scale it, waits for the norm on the host between
// them and moves 4 bytes more; here the factor is applied where AdamW reads the gradient.
#include <type_traits>

#include "cuda/gradient_norm.h"
#include "cuda/parameter_table.cuh"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 256, kSumThreads = 1024;

__global__ void __launch_bounds__(kThreads) sum_squares(ParameterTable table, double* partial) {
  const Chunk chunk = chunk_of(table, blockIdx.x);
  float sum = 0;
  if (chunk.parameter.gradient != nullptr) {
    with_gradient_type(chunk.parameter, [&](auto t) {
      const auto* gradient = static_cast<const decltype(t)*>(chunk.parameter.gradient);
      for_elements(chunk, is_aligned_here(gradient), [&](int64_t i, auto width) {
        for (const auto g : load<width>(gradient + i).values) sum += to_float(g) * to_float(g);
      });
    });
  }
  const double all = block_sum(static_cast<double>(sum));
  if (threadIdx.x == 0) partial[blockIdx.x] = all;
}

__global__ void __launch_bounds__(kSumThreads) finish(GradientNormArgs args) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < args.table.chunks; i += kSumThreads) sum += args.partial[i];
  const double norm = sqrt(block_sum(sum));
  if (threadIdx.x != 0) return;
  const double scale = args.max_norm / (norm + 1e-6);
  const bool finite = isfinite(norm) && (args.loss == nullptr || isfinite(*args.loss));
  *args.result = {static_cast<float>(norm),
                  args.max_norm > 0 && scale < 1 ? static_cast<float>(scale) : 1.0F, finite};
}

}  // namespace

int gradient_norm(const GradientNormArgs& args, Stream stream) {
  const int failed =
      launch(sum_squares, args.table.chunks, kThreads, 0, stream, args.table, args.partial);
  return failed != 0 ? failed : launch(finish, 1, kSumThreads, 0, stream, args);
}

}  // namespace trestle::cuda
