// Products of a few rows by CUDA kernels, run on the CPU, against fp64 products of the values that
// the weight's form stands for.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "cuda/dequantize.h"
#include "cuda/row_product.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

struct Shape {
  int64_t batch, rows, columns;
};
// Whole vectors and single elements, rows that no block fills, every count of rows of x.
const std::vector<Shape> kShapes = {{0, 5, 64},  {1, 1, 1},   {1, 7, 33},    {1, 9, 1024},
                                    {2, 4, 512}, {3, 6, 208}, {4, 10, 3072}, {5, 3, 144},
                                    {8, 5, 96},  {7, 3, 65}};

// y [batch, rows] by kernel(args, weight, stream).
template <class Kernel, class Weight>
at::Tensor by_kernel(const Kernel& kernel, const at::Tensor& x, int64_t rows,
                     const Weight& weight) {
  return in_every_order([&] {
    at::Tensor y = fenced_empty({x.size(0), rows}, x.scalar_type());
    EXPECT_EQ(kernel({.type = type_of(x),
                      .batch = x.size(0),
                      .rows = rows,
                      .columns = x.size(1),
                      .x = x.const_data_ptr(),
                      .y = y.mutable_data_ptr()},
                     weight, nullptr),
              0);
    return std::vector{y};
  })[0];
}

// What cuda/dequantize.h makes of the codes in fp32, which its own test holds to the rule.
template <class Kernel, class Codes>
at::Tensor values_of(const Kernel& kernel, const Codes& codes, int64_t rows, int64_t columns) {
  at::Tensor values = at::empty({rows, columns});
  EXPECT_EQ(kernel({cuda::Type::kFloat, rows, columns, values.mutable_data_ptr()}, codes, nullptr),
            0);
  return exact(values);
}

class RowProductCuda : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  static at::Tensor random_x(const Shape& shape) {
    at::manual_seed(shape.rows + shape.columns);
    return fenced(at::randn({shape.batch, shape.columns}).to(GetParam()));
  }
  static std::string told(const Shape& shape) {
    return fmt::format("[{}, {}] x [{}, {}]", shape.batch, shape.columns, shape.rows,
                       shape.columns);
  }
};
INSTANTIATE_TEST_SUITE_P(Types, RowProductCuda, ::testing::Values(at::kFloat, at::kBFloat16));

TEST_P(RowProductCuda, OfAWeightAsItIs) {
  for (const Shape& shape : kShapes) {
    const at::Tensor x = random_x(shape);
    const at::Tensor weight = fenced(at::randn({shape.rows, shape.columns}).to(GetParam()));
    expect_exact(by_kernel(cuda::row_product, x, shape.rows, weight.const_data_ptr()),
                 at::mm(exact(x), exact(weight).t()), told(shape));
  }
}

TEST_P(RowProductCuda, OfAWeightInNf4AndInt8) {
  for (const Shape& shape : kShapes) {
    const at::Tensor x = random_x(shape);
    const int64_t blocks = (shape.columns + cuda::kQuantizedBlock - 1) / cuda::kQuantizedBlock;
    const at::Tensor absmax = fenced(at::rand({shape.rows, blocks}));
    const at::Tensor four =
        fenced(at::randint(256, {shape.rows, (shape.columns + 1) / 2}, at::kByte));
    const at::Tensor eight = fenced(at::randint(-127, 128, {shape.rows, shape.columns}, at::kChar));
    const auto codes_of = [&](const at::Tensor& codes) {
      return cuda::QuantizedCodes{codes.const_data_ptr(), absmax.const_data_ptr<float>(),
                                  codes.size(1), blocks};
    };
    const auto wanted = [&](const auto& kernel, const at::Tensor& codes) {
      return at::mm(exact(x), values_of(kernel, codes_of(codes), shape.rows, shape.columns).t());
    };
    expect_exact(by_kernel(cuda::row_product_nf4, x, shape.rows, codes_of(four)),
                 wanted(cuda::dequantize_nf4, four), told(shape) + ", NF4");
    expect_exact(by_kernel(cuda::row_product_int8, x, shape.rows, codes_of(eight)),
                 wanted(cuda::dequantize_int8, eight), told(shape) + ", int8");
  }
}

TEST_P(RowProductCuda, OfAWeightInFp8) {
  for (const Shape& shape : kShapes) {
    for (const int64_t block : {int64_t{1} << 40, int64_t{128}, int64_t{24}}) {
      const at::Tensor x = random_x(shape);
      const int64_t grid = block > shape.columns ? 1 : (shape.columns + block - 1) / block;
      const at::Tensor bytes = at::randint(256, {shape.rows, shape.columns}, at::kByte);
      const at::Tensor codes =
          fenced(bytes.masked_fill(bytes.bitwise_and(127).eq(127), 0));  // no NaN
      const at::Tensor scales = fenced(at::rand({2, grid}));
      const at::Tensor grid_row = fenced(at::randint(2, {shape.rows}, at::kInt));
      const cuda::Fp8Codes weight{.codes = codes.const_data_ptr(),
                                  .scales = scales.const_data_ptr<float>(),
                                  .grid_row = grid_row.const_data_ptr<int32_t>(),
                                  .code_stride = shape.columns,
                                  .grid_columns = grid,
                                  .block_columns = block,
                                  .first_column = 0};
      const at::Tensor values = values_of(cuda::dequantize_fp8, weight, shape.rows, shape.columns);
      expect_exact(by_kernel(cuda::row_product_fp8, x, shape.rows, weight),
                   at::mm(exact(x), values.t()), told(shape) + fmt::format(", block {}", block));
    }
  }
}

// y += s h B^T, as an adapter of rank 32 adds its h = x A^T.
TEST_P(RowProductCuda, AddsALowRankUpdate) {
  at::manual_seed(4);
  const at::Tensor y = at::randn({3, 50}).to(GetParam()),
                   h = fenced(at::randn({3, 32}).to(GetParam()));
  const at::Tensor b = fenced(at::randn({50, 32}).to(GetParam()));
  const at::Tensor got = in_every_order([&] {
    at::Tensor sum = fenced(y);
    EXPECT_EQ(cuda::row_product({.type = type_of(h),
                                 .batch = 3,
                                 .rows = 50,
                                 .columns = 32,
                                 .scale = 0.25,
                                 .add = true,
                                 .x = h.const_data_ptr(),
                                 .y = sum.mutable_data_ptr()},
                                b.const_data_ptr(), nullptr),
              0);
    return std::vector{sum};
  })[0];
  expect_exact(got, exact(y) + 0.25 * at::mm(exact(h), exact(b).t()), "y + s h B^T");
}

TEST(RowProductsCuda, RefuseWhatAMatrixProductDoesBetter) {
  EXPECT_NE(cuda::row_product({.batch = cuda::kMostProductRows + 1, .rows = 1, .columns = 1},
                              nullptr, nullptr),
            0);
}

}  // namespace
}  // namespace trestle
