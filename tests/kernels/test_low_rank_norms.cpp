// low_rank_norms() by CUDA kernels that the emulator runs, against the norms of the merged weight
// in fp64.
#include "kernels/cuda_testing.h"
#include "kernels/emulated.h"
#include "kernels/low_rank_norms.h"

namespace trestle {
namespace {

using namespace testing;
using Calls = std::map<std::string, int64_t>;

void expect_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b,
                  const std::string& what) {
  const at::Tensor squares = exact(weight).square().sum(1);
  const at::Tensor merged = exact(weight) + at::mm(exact(b), exact(a));
  at::Tensor wanted = merged.norm(2, {1});
  wanted.masked_fill_(wanted == 0, 1);
  const EmulatedKernels kernels;
  const at::Tensor got = low_rank_norms(weight, squares, {a, b, at::kFloat}, 4);
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"dora_norms", 1}})) << what;
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  expect_near(got, wanted, 1e-5, what);
}

TEST(LowRankNormsByKernels, AreThoseOfTheMergedWeight) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [rows, columns, rank] :
         std::vector<std::array<int64_t, 3>>{{1, 3, 1}, {9, 40, 5}, {6, 64, 40}}) {
      expect_norms(at::randn({rows, columns}).to(type), at::randn({rank, columns}),
                   at::randn({rows, rank}), c10::str(type, " ", rows, " ", columns, " ", rank));
    }
  }
}

TEST(LowRankNormsByKernels, TakeRowsOfALargerUpdateAndAWeightOfZeros) {
  at::Tensor weight = at::randn({5, 12});
  weight[2].zero_();
  at::Tensor b = at::randn({3, 9}).t().narrow(0, 2, 5);
  b[2].zero_();
  expect_norms(weight, at::randn({12, 3}).t(), b, "rows");
}

}  // namespace
}  // namespace trestle
