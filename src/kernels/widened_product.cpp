#include "kernels/widened_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cpu/panel_product.h"
#include "kernels/convert.h"

namespace trestle {

namespace {

// Rows of activations that are in fp32 at a time; a weight is widened once for each such block.
constexpr int64_t kRowsAtOnce = 512;
// A weight of no more elements is widened whole (4 MiB), and fp32's product shares the threads.
constexpr int64_t kWholeWeight = int64_t{1} << 20;
// Terms of a sum at a time: a panel of so many lies in a core's nearest cache with a sliver.
constexpr int64_t kDepth = 256;
// Weights of a thread's tile in their other direction, at most.
constexpr int64_t kMostTile = 192;
// For the gradient of a weight, which sums over all rows: rows of a tile, and elements of
// activations in fp32 at a time.
constexpr int64_t kGradientRows = 256, kGradientColumns = 512;
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

int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

const PanelKernel& kernel_for(int64_t rows) {
  static const std::string capability = at::get_cpu_capability();
  return *panel_kernel(capability.c_str(), rows);
}

// Rows of activations in fp32, packed for the kernel: [panels, depth, rows of a panel].
struct Panels {
  const PanelKernel& kernel;
  at::Tensor values;
  int64_t count, depth;  // rows that there are, terms of a sum

  int64_t panels() const { return values.size(0); }
  const float* at(int64_t panel, int64_t term) const {
    return values.const_data_ptr<float>() + (panel * depth + term) * kernel.rows;
  }
};

Panels packed(const at::Tensor& a_MK) {
  const at::Tensor a = with_plain_rows(a_MK);
  const int64_t M = a.size(0), K = a.size(1);
  const PanelKernel& kernel = kernel_for(M);
  const int64_t height = kernel.rows;
  Panels to{kernel, at::empty({(M + height - 1) / height, K, height}), M, K};
  const auto* from = a.const_data_ptr<at::BFloat16>();
  auto* first = to.values.mutable_data_ptr<float>();
  at::parallel_for(0, to.panels(), 1, [&](int64_t begin, int64_t end) {
    constexpr int64_t kChunk = 64;
    std::vector<float> rows(height * kChunk);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t count = std::min(height, M - panel * height);
      for_ranges(K, kChunk, [&](int64_t column, int64_t columns) {
        for (int64_t i = 0; i < count; ++i) {
          widen(from + (panel * height + i) * a.stride(0) + column, &rows[i * kChunk], columns);
        }
        float* target = first + (panel * K + column) * height;
        for (int64_t j = 0; j < columns; ++j, target += height) {
          for (int64_t i = 0; i < height; ++i) target[i] = rows[i * kChunk + j];
        }
      });
    }
  });
  return to;
}

// A thread's tile of the weight in fp32, and the sums it gives with all panels:
// [panels, tile, rows of a panel].
struct TileBuffers {
  at::Tensor weight, sums;
};

// Alike for all threads, whole slivers, and no more than kMostTile.
int64_t tile_size(int64_t total, int64_t sliver) {
  const int64_t threads = at::get_num_threads();
  const int64_t each = (total + threads - 1) / threads;
  const int64_t tiles = (each + kMostTile - 1) / kMostTile;
  return rounded_up((each + tiles - 1) / tiles, sliver);
}

// sums (+)= the tile's weights times all panels, over terms [term, term + terms).
void multiply_tile(const Panels& a, int64_t term, int64_t terms, const float* tile, int64_t weights,
                   int64_t weight_stride, int64_t term_stride, int64_t tile_size, float* sums) {
  const PanelKernel& kernel = a.kernel;
  for (int64_t w = 0; w < weights; w += kernel.weights) {
    for (int64_t panel = 0; panel < a.panels(); ++panel) {
      kernel.multiply(a.at(panel, term), terms, tile + w * weight_stride, weight_stride,
                      term_stride, sums + (panel * tile_size + w) * kernel.rows, term != 0);
    }
  }
}

// y[row + m, column + w] = sums of row m and weight w, and the weight's bias (null: none).
void round_tile(const Panels& a, const float* sums, int64_t tile_size, int64_t weights,
                const float* bias, const at::Tensor& y, int64_t row, int64_t column) {
  const int64_t height = a.kernel.rows;
  constexpr int64_t kAtOnce = 16;
  std::vector<float> biased(height);
  std::vector<at::BFloat16> block(kAtOnce * height);
  auto* first = y.mutable_data_ptr<at::BFloat16>() + row * y.stride(0) + column;
  for (int64_t panel = 0; panel < a.panels(); ++panel) {
    const int64_t rows = std::min(height, a.count - panel * height);
    for_ranges(weights, kAtOnce, [&](int64_t from, int64_t count) {
      for (int64_t w = 0; w < count; ++w) {
        const float* sum = sums + (panel * tile_size + from + w) * height;
        if (bias != nullptr) {
          for (int64_t i = 0; i < height; ++i) biased[i] = sum[i] + bias[from + w];
          sum = biased.data();
        }
        round_to_bf16(sum, &block[w * height], height);
      }
      for (int64_t i = 0; i < rows; ++i) {
        at::BFloat16* to = first + (panel * height + i) * y.stride(0) + from;
        for (int64_t w = 0; w < count; ++w) to[w] = block[w * height + i];
      }
    });
  }
}

void times_transposed_into(const at::Tensor& y_MN, int64_t row, const Panels& a,
                           const at::Tensor& b_NK, const at::Tensor& bias32_N) {
  const int64_t N = b_NK.size(0), K = b_NK.size(1), tile = tile_size(N, a.kernel.weights);
  const int64_t sums = a.panels() * tile * a.kernel.rows;
  const auto* bias = bias32_N.defined() ? bias32_N.const_data_ptr<float>() : nullptr;
  // A sliver past the last weight multiplies what the buffer held before, which nobody reads.
  const auto make = [&] { return TileBuffers{at::zeros({tile * kDepth}), at::empty({sums})}; };
  for_ranges_in_parallel(N, tile, make, [&](int64_t first, int64_t count, TileBuffers& buffers) {
    auto* sum = buffers.sums.mutable_data_ptr<float>();
    for_ranges(K, kDepth, [&](int64_t term, int64_t terms) {
      const at::Tensor b32 = widened_tile(b_NK, first, count, term, terms, buffers.weight);
      multiply_tile(a, term, terms, b32.const_data_ptr<float>(), count, terms, 1, tile, sum);
    });
    round_tile(a, sum, tile, count, bias == nullptr ? bias : bias + first, y_MN, row, first);
  });
}

void times_into(const at::Tensor& y_MK, int64_t row, const Panels& a, const at::Tensor& b_NK) {
  const int64_t N = b_NK.size(0), K = b_NK.size(1), tile = tile_size(K, a.kernel.weights);
  const int64_t sums = a.panels() * tile * a.kernel.rows;
  const int64_t spare = a.kernel.weights;
  const auto make = [&] {
    return TileBuffers{at::zeros({tile * kDepth + spare}), at::empty({sums})};
  };
  for_ranges_in_parallel(K, tile, make, [&](int64_t first, int64_t count, TileBuffers& buffers) {
    auto* sum = buffers.sums.mutable_data_ptr<float>();
    for_ranges(N, kDepth, [&](int64_t term, int64_t terms) {
      const at::Tensor b32 = widened_tile(b_NK, term, terms, first, count, buffers.weight);
      multiply_tile(a, term, terms, b32.const_data_ptr<float>(), count, 1, count, tile, sum);
    });
    round_tile(a, sum, tile, count, nullptr, y_MK, row, first);
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
    const at::Tensor rows = a_MK.narrow(0, first, count);
    if (is_small) {
      y_MN.narrow(0, first, count).copy_(at::linear(wide(rows), b, bias32));
    } else {
      times_transposed_into(y_MN, first, packed(rows), b, bias32);
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
    const at::Tensor rows = a_MN.narrow(0, first, count);
    if (is_small) {
      y_MK.narrow(0, first, count).copy_(at::mm(wide(rows), b));
    } else {
      times_into(y_MK, first, packed(rows), b);
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
  const int64_t at_once = std::max(kGradientColumns, kColumnsAtOnce / std::max<int64_t>(1, M));
  const int64_t most = kGradientRows;
  for_ranges(K, at_once, [&](int64_t column, int64_t columns) {
    const at::Tensor b32 = wide(b_MK.narrow(1, column, columns));
    const auto make = [&] {
      return TileBuffers{at::empty({M * most}), at::empty({most * columns})};
    };
    for_ranges_in_parallel(N, most, make, [&](int64_t first, int64_t count, TileBuffers& tile) {
      const at::Tensor a32 = widened_tile(a, 0, M, first, count, tile.weight);
      at::Tensor out32 = front_of(tile.sums, count, columns);
      at::mm_out(out32, a32.t(), b32);
      round_into(out32, out_NK, first, column);
    });
  });
}

}  // namespace trestle
