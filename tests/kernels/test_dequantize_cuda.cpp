// The CUDA kernels that make values of codes, run on the CPU, to the bit of the rule.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/dequantize.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

constexpr int64_t kBlock = cuda::kQuantizedBlock;

struct Shape {
  int64_t rows, columns;
};
const std::vector<Shape> kShapes = {{0, 64}, {1, 1}, {3, 7}, {2, 200}, {5, 129}, {2, 1024}};

at::Tensor bytes(at::IntArrayRef shape) { return fenced(at::randint(256, shape, at::kByte)); }

// codes [rows, columns] in fp32 times the scale of their block, as linear/quantized.h rounds.
at::Tensor scaled(const at::Tensor& codes, const at::Tensor& absmax, at::ScalarType type) {
  return (codes * absmax.repeat_interleave(kBlock, 1).narrow(1, 0, codes.size(1))).to(type);
}

at::Tensor nf4_by_rule(const at::Tensor& bytes, const at::Tensor& absmax, int64_t columns,
                       at::ScalarType type) {
  // bitsandbytes' table.
  const at::Tensor levels =
      at::tensor(
          {-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
           -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
           0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
           0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0},
          at::kDouble)
          .to(at::kFloat);
  const at::Tensor codes =
      at::stack({bytes.bitwise_right_shift(4), bytes.bitwise_and(15)}, -1).flatten(1);
  const at::Tensor used = codes.narrow(1, 0, columns).to(at::kLong);
  return scaled(levels.index_select(0, used.flatten()).view(used.sizes()), absmax, type);
}

// A tile that begins `skipped` blocks into rows of codes, `per_byte` of which a byte holds.
cuda::Tile tile_of(at::Tensor& values) {
  return {type_of(values), values.size(0), values.size(1), values.mutable_data_ptr()};
}

template <class Kernel>
at::Tensor by_kernel(const Kernel& kernel, const at::Tensor& codes, const at::Tensor& absmax,
                     int64_t columns, int64_t per_byte, int64_t skipped, at::ScalarType type) {
  const int64_t rows = codes.size(0), tile = columns - skipped * kBlock;
  return in_every_order([&] {
    at::Tensor values = fenced_empty({rows, tile}, type);
    const cuda::QuantizedCodes from{.codes = static_cast<const std::byte*>(codes.const_data_ptr()) +
                                             skipped * kBlock / per_byte,
                                    .absmax = absmax.const_data_ptr<float>() + skipped,
                                    .code_stride = codes.size(1),
                                    .absmax_stride = absmax.size(1)};
    EXPECT_EQ(kernel(tile_of(values), from, nullptr), 0);
    return std::vector{values};
  })[0];
}

TEST(DequantizeCuda, Nf4AndInt8AreTheRuleToTheBit) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [rows, columns] : kShapes) {
      at::manual_seed(rows + columns);
      const at::Tensor absmax = fenced(at::rand({rows, (columns + kBlock - 1) / kBlock}));
      const at::Tensor four = bytes({rows, (columns + 1) / 2});
      const at::Tensor eight = fenced(at::randint(-127, 128, {rows, columns}, at::kChar));
      const at::Tensor wanted4 = nf4_by_rule(four, absmax, columns, type);
      const at::Tensor wide = absmax.repeat_interleave(kBlock, 1).narrow(1, 0, columns);
      const at::Tensor wanted8 = (eight.to(at::kFloat) * wide * (1.0F / 127)).to(type);
      for (const int64_t skipped : {int64_t{0}, (columns - 1) / kBlock}) {
        const std::string what =
            fmt::format("{} [{}, {}] from block {}", c10::toString(type), rows, columns, skipped);
        const auto tile = [&](const at::Tensor& all) {
          return all.narrow(1, skipped * kBlock, columns - skipped * kBlock);
        };
        EXPECT_TRUE(
            at::equal(by_kernel(cuda::dequantize_nf4, four, absmax, columns, 2, skipped, type),
                      tile(wanted4)))
            << what;
        EXPECT_TRUE(
            at::equal(by_kernel(cuda::dequantize_int8, eight, absmax, columns, 1, skipped, type),
                      tile(wanted8)))
            << what;
      }
    }
  }
}

// All codes, each under the scale of its block of 3 columns and group of rows.
TEST(DequantizeCuda, Fp8IsTheRuleToTheBit) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t columns : {256, 255}) {
      const int64_t rows = 5, block = 3, grid = (columns + block - 1) / block;
      at::manual_seed(columns);
      const at::Tensor codes = fenced(at::arange(columns).expand({rows, columns}).to(at::kByte));
      const at::Tensor scales = fenced(at::rand({2, grid}));
      const at::Tensor grid_row = fenced(at::tensor({0, 0, 1, 1, 0}).to(at::kInt));
      const at::Tensor of_all =
          scales.index_select(0, grid_row).repeat_interleave(block, 1).narrow(1, 0, columns);
      const at::Tensor wanted =
          (codes.view(at::kFloat8_e4m3fn).to(at::kFloat) * of_all).to(at::kBFloat16).to(type);
      for (const int64_t first : {0, 64}) {
        const int64_t tile = columns - first;
        const at::Tensor got = in_every_order([&] {
          at::Tensor values = fenced_empty({rows, tile}, type);
          const cuda::Fp8Codes from{.codes = codes.const_data_ptr<uint8_t>() + first,
                                    .scales = scales.const_data_ptr<float>(),
                                    .grid_row = grid_row.const_data_ptr<int32_t>(),
                                    .code_stride = columns,
                                    .grid_columns = grid,
                                    .block_columns = block,
                                    .first_column = first};
          EXPECT_EQ(cuda::dequantize_fp8(tile_of(values), from, nullptr), 0);
          return std::vector{values};
        })[0];
        EXPECT_TRUE(at::allclose(got, wanted.narrow(1, first, tile), 0, 0, /*equal_nan=*/true))
            << c10::toString(type) << ", " << columns << " columns from " << first;
      }
    }
  }
}

}  // namespace
}  // namespace trestle
