// DoRA's row norms by the CUDA kernel, run on the CPU, against the norms of the merged weight in
// fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "cuda/dora.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

struct Shape {
  int64_t rows, columns, rank;
};
const std::vector<Shape> kShapes = {{0, 8, 4}, {1, 1, 1}, {9, 40, 3}, {6, 200, 32}, {5, 64, 40}};

struct Dora {
  at::Tensor weight, a, b, magnitude;
  double scale;
};

Dora random_dora(const Shape& shape, at::ScalarType type) {
  at::manual_seed(shape.rows + shape.columns);
  return {at::randn({shape.rows, shape.columns}), at::randn({shape.rank, shape.columns}).to(type),
          fenced(at::randn({shape.rows, shape.rank}).mul_(0.3).to(type)),
          fenced(at::rand({shape.rows}).add_(1).to(type)), 0.5};
}

// Norms and gains.
std::vector<at::Tensor> by_kernel(const Dora& dora, bool gains) {
  const at::Tensor a = dora.a.to(at::kFloat);
  const at::Tensor products = fenced(at::mm(dora.weight, a.t())), gram = fenced(at::mm(a, a.t()));
  const at::Tensor squares = fenced(exact(dora.weight).square().sum(1));
  return in_every_order([&] {
    const int64_t rows = dora.b.size(0);
    at::Tensor norms = fenced_empty({rows}, at::kFloat), gained = fenced_empty({rows}, at::kFloat);
    EXPECT_EQ(cuda::dora_norms({.type = type_of(dora.b),
                                .rows = rows,
                                .rank = dora.b.size(1),
                                .scale = dora.scale,
                                .products = products.const_data_ptr<float>(),
                                .gram = gram.const_data_ptr<float>(),
                                .b = dora.b.const_data_ptr(),
                                .magnitude = gains ? dora.magnitude.const_data_ptr() : nullptr,
                                .squares = squares.const_data_ptr<double>(),
                                .norms = norms.mutable_data_ptr<float>(),
                                .gains = gains ? gained.mutable_data_ptr<float>() : nullptr},
                               nullptr),
              0);
    return std::vector{norms, gained};
  });
}

at::Tensor by_formula(const Dora& dora) {
  return (exact(dora.weight) + dora.scale * at::mm(exact(dora.b), exact(dora.a))).norm(2, 1);
}

TEST(DoraCuda, AreTheNormsOfTheMergedWeight) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const Shape& shape : kShapes) {
      const std::string what = fmt::format("{} [{}, {}], rank {}", c10::toString(type), shape.rows,
                                           shape.columns, shape.rank);
      const Dora dora = random_dora(shape, type);
      const at::Tensor wanted = by_formula(dora);
      const auto got = by_kernel(dora, true);
      expect_near(got[0], wanted, 1e-6, what);
      expect_near(got[1], exact(dora.magnitude) / wanted, 1e-6, what + ", gains");
      EXPECT_TRUE(at::equal(by_kernel(dora, false)[0], got[0])) << what;
    }
  }
}

TEST(DoraCuda, ANormOfZeroIsOne) {
  Dora dora = random_dora({4, 40, 3}, at::kFloat);
  dora.weight[2].zero_();
  dora.b[2].zero_();
  // What B A takes away exactly may round to less than nothing.
  dora.weight[3] = -dora.scale * at::mm(dora.b, dora.a)[3];
  const auto got = by_kernel(dora, true);
  EXPECT_EQ(got[0][2].item<float>(), 1);
  EXPECT_EQ(got[1][2].item<float>(), dora.magnitude[2].item<float>());
  EXPECT_LT(got[0][3].item<float>() == 1 ? 0 : got[0][3].item<float>(), 1e-2);
}

}  // namespace
}  // namespace trestle
