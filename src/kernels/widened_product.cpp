#include "kernels/widened_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "kernels/convert.h"

namespace trestle {

namespace {

// Rows of activations that are in fp32 at a time; a weight is widened once for each such block.
constexpr int64_t kRowsAtOnce = 512;
// A weight of no more elements is widened whole (4 MiB), and fp32's product shares the threads.
constexpr int64_t kWholeWeight = int64_t{1} << 20;
// Elements of a thread's tile: 2 MiB in fp32, about what a core's own cache holds.
constexpr int64_t kTile = int64_t{1} << 19;
constexpr int64_t kLeastTileRows = 32, kMostTileRows = 256;
constexpr int64_t kLeastTileColumns = 64, kMostTileColumns = 512;
// Elements of activations in fp32 at a time for the gradient of a weight, which sums over all rows.
constexpr int64_t kColumnsAtOnce = int64_t{1} << 22;
// libtorch's bf16 product of so few rows is a dot product at memory's speed, with sums in fp32.
constexpr int64_t kFewRows = 3;

// fn(first, count) for ranges of at most `most` that cover `total`.
template <class Function>
void for_ranges(int64_t total, int64_t most, const Function& fn) {
  for (int64_t first = 0; first < total; first += most) fn(first, std::min(most, total - first));
}

// As above, from all threads; fn(first, count, buffers), with what make() gives for each thread.
template <class Make, class Function>
void for_ranges_in_parallel(int64_t total, int64_t most, const Make& make, const Function& fn) {
  at::parallel_for(0, (total + most - 1) / most, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode no_records;  // threads do not inherit the mode of the caller's
    auto buffers = make();
    for (int64_t i = begin; i < end; ++i) {
      fn(i * most, std::min(most, total - i * most), buffers);
    }
  });
}

// Whose rows lie apart and whose columns do not, so that a row is plain memory.
at::Tensor with_plain_rows(const at::Tensor& matrix) {
  return matrix.stride(1) == 1 || matrix.size(1) <= 1 ? matrix : matrix.contiguous();
}

at::Tensor wide(const at::Tensor& matrix) { return matrix.to(at::kFloat).contiguous(); }

// Rows of a tile lie pages apart, where the processor does not look ahead by itself (a tenth of the
// gradient of a [9216, 3072] projection).
void prefetch(const at::BFloat16* row, int64_t columns) {
  constexpr int64_t kLine = 64 / sizeof(at::BFloat16);
  for (int64_t i = 0; i < columns; i += kLine) __builtin_prefetch(row + i);
}

// matrix[row .. row + rows, column .. column + columns] in fp32 at the start of `buffer`.
at::Tensor widened_tile(const at::Tensor& matrix, int64_t row, int64_t rows, int64_t column,
                        int64_t columns, const at::Tensor& buffer) {
  const auto* from = matrix.const_data_ptr<at::BFloat16>();
  auto* to = buffer.mutable_data_ptr<float>();
  constexpr int64_t kAhead = 6;
  const auto source = [&](int64_t i) { return from + (row + i) * matrix.stride(0) + column; };
  for (int64_t i = 0; i < rows; ++i) {
    if (i + kAhead < rows) prefetch(source(i + kAhead), columns);
    widen(source(i), to + i * columns, columns);
  }
  return buffer.narrow(0, 0, rows * columns).view({rows, columns});
}

at::Tensor front_of(const at::Tensor& buffer, int64_t rows, int64_t columns) {
  return buffer.narrow(0, 0, rows * columns).view({rows, columns});
}

// to[row + i, column + j] = values[i, j]; `to` has plain rows.
void round_into(const at::Tensor& values, const at::Tensor& to, int64_t row, int64_t column) {
  const auto* from = values.const_data_ptr<float>();
  auto* first = to.mutable_data_ptr<at::BFloat16>();
  for (int64_t i = 0; i < values.size(0); ++i) {
    round_to_bf16(from + i * values.size(1), first + (row + i) * to.stride(0) + column,
                  values.size(1));
  }
}

// Whole vectors of 16 at least. Sums run over columns or over rows in tiles of this height,
// whatever the threads are.
int64_t tile_rows(int64_t columns) {
  const int64_t fit = kTile / std::max<int64_t>(1, columns) / 16 * 16;
  return std::clamp(fit, kLeastTileRows, kMostTileRows);
}

// So that each thread has some.
int64_t tile_columns(int64_t columns) {
  const int64_t share = (columns / at::get_num_threads() + 15) / 16 * 16;
  return std::clamp(share, kLeastTileColumns, kMostTileColumns);
}

struct Tile {
  at::Tensor weight, result;
};

void times_transposed_into(const at::Tensor& y_MN, int64_t row, const at::Tensor& a32_MK,
                           const at::Tensor& b_NK, const at::Tensor& bias32_N) {
  const int64_t M = a32_MK.size(0), N = b_NK.size(0), K = b_NK.size(1), most = tile_rows(K);
  const auto make = [&] { return Tile{at::empty({most * K}), at::empty({M * most})}; };
  for_ranges_in_parallel(N, most, make, [&](int64_t first, int64_t count, Tile& tile) {
    const at::Tensor b32 = widened_tile(b_NK, first, count, 0, K, tile.weight);
    at::Tensor y32 = front_of(tile.result, M, count);
    at::mm_out(y32, a32_MK, b32.t());
    if (bias32_N.defined()) y32.add_(bias32_N.narrow(0, first, count));
    round_into(y32, y_MN, row, first);
  });
}

void times_into(const at::Tensor& y_MK, int64_t row, const at::Tensor& a32_MN,
                const at::Tensor& b_NK) {
  const int64_t M = a32_MN.size(0), N = b_NK.size(0), K = b_NK.size(1);
  const int64_t columns = std::min(K, tile_columns(K)), rows = tile_rows(columns);
  const auto make = [&] { return Tile{at::empty({rows * columns}), at::empty({M * columns})}; };
  for_ranges_in_parallel(K, columns, make, [&](int64_t first, int64_t count, Tile& tile) {
    at::Tensor y32 = front_of(tile.result, M, count);
    for_ranges(N, rows, [&](int64_t from, int64_t of) {
      const at::Tensor b32 = widened_tile(b_NK, from, of, first, count, tile.weight);
      const at::Tensor part = a32_MN.narrow(1, from, of);
      if (from == 0) {
        at::mm_out(y32, part, b32);
      } else {
        y32.addmm_(part, b32);
      }
    });
    round_into(y32, y_MK, row, first);
  });
}

}  // namespace

at::Tensor widened_times_transposed(const at::Tensor& a_MK, const at::Tensor& b_NK,
                                    const at::Tensor& bias_N) {
  const int64_t M = a_MK.size(0), N = b_NK.size(0);
  TORCH_CHECK(a_MK.size(1) == b_NK.size(1), "a product of ", a_MK.sizes(), " and ", b_NK.sizes(),
              " transposed");
  const c10::NoGradGuard no_grad;
  if (M <= kFewRows || b_NK.numel() == 0) return at::linear(a_MK, b_NK, bias_N);
  const at::Tensor bias32 = bias_N.defined() ? bias_N.to(at::kFloat) : at::Tensor();
  at::Tensor y_MN = at::empty({M, N}, a_MK.options());
  const bool is_small = b_NK.numel() <= kWholeWeight;
  const at::Tensor b = is_small ? wide(b_NK) : with_plain_rows(b_NK);
  for_ranges(M, kRowsAtOnce, [&](int64_t first, int64_t count) {
    const at::Tensor a32 = wide(a_MK.narrow(0, first, count));
    if (is_small) {
      y_MN.narrow(0, first, count).copy_(at::linear(a32, b, bias32));
    } else {
      times_transposed_into(y_MN, first, a32, b, bias32);
    }
  });
  return y_MN;
}

at::Tensor widened_times(const at::Tensor& a_MN, const at::Tensor& b_NK) {
  TORCH_CHECK(a_MN.size(1) == b_NK.size(0), "a product of ", a_MN.sizes(), " and ", b_NK.sizes());
  const c10::NoGradGuard no_grad;
  if (b_NK.numel() == 0) return at::zeros({a_MN.size(0), b_NK.size(1)}, a_MN.options());
  at::Tensor y_MK = at::empty({a_MN.size(0), b_NK.size(1)}, a_MN.options());
  const bool is_small = b_NK.numel() <= kWholeWeight;
  const at::Tensor b = is_small ? wide(b_NK) : with_plain_rows(b_NK);
  for_ranges(a_MN.size(0), kRowsAtOnce, [&](int64_t first, int64_t count) {
    const at::Tensor a32 = wide(a_MN.narrow(0, first, count));
    if (is_small) {
      y_MK.narrow(0, first, count).copy_(at::mm(a32, b));
    } else {
      times_into(y_MK, first, a32, b);
    }
  });
  return y_MK;
}

void widened_transposed_times_out(at::Tensor& out_NK, const at::Tensor& a_MN,
                                  const at::Tensor& b_MK) {
  const int64_t M = a_MN.size(0), N = a_MN.size(1), K = b_MK.size(1);
  TORCH_CHECK(b_MK.size(0) == M && out_NK.sizes() == at::IntArrayRef({N, K}), "a product of ",
              a_MN.sizes(), " transposed and ", b_MK.sizes(), " into ", out_NK.sizes());
  TORCH_CHECK(out_NK.stride(1) == 1 || K <= 1, "the columns of a result lie beside each other");
  const c10::NoGradGuard no_grad;
  if (N * K <= kWholeWeight) {
    at::Tensor sum = at::zeros({N, K}, a_MN.options().dtype(at::kFloat));
    for_ranges(M, kRowsAtOnce, [&](int64_t first, int64_t count) {
      sum.addmm_(wide(a_MN.narrow(0, first, count)).t(), wide(b_MK.narrow(0, first, count)));
    });
    out_NK.copy_(sum);
    return;
  }
  const at::Tensor a = with_plain_rows(a_MN);
  const int64_t at_once = std::max(kMostTileColumns, kColumnsAtOnce / std::max<int64_t>(1, M));
  const int64_t most = kMostTileRows;
  for_ranges(K, at_once, [&](int64_t column, int64_t columns) {
    const at::Tensor b32 = wide(b_MK.narrow(1, column, columns));
    const auto make = [&] { return Tile{at::empty({M * most}), at::empty({most * columns})}; };
    for_ranges_in_parallel(N, most, make, [&](int64_t first, int64_t count, Tile& tile) {
      const at::Tensor a32 = widened_tile(a, 0, M, first, count, tile.weight);
      at::Tensor out32 = front_of(tile.result, count, columns);
      at::mm_out(out32, a32.t(), b32);
      round_into(out32, out_NK, first, column);
    });
  });
}

}  // namespace trestle
