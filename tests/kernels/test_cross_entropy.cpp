// cross_entropy() by CUDA kernels that the emulator runs, against the formula in fp64.
#include "kernels/cross_entropy.h"
#include "kernels/cuda_testing.h"
#include "kernels/emulated.h"

namespace trestle {
namespace {

using namespace testing;
using Calls = std::map<std::string, int64_t>;

void expect_the_formula(const at::Tensor& logits, const std::string& what) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  const at::Tensor targets = at::randint(columns, {2 * rows}, at::kLong).slice(0, 0, 2 * rows, 2);
  const at::Tensor wide = exact(logits), picked = targets.unsqueeze(1);
  const at::Tensor onehot = at::zeros_like(wide).scatter_(1, picked, 1);
  const at::Tensor largest = wide.amax(1, true), sum = (wide - largest).exp().sum(1, true);
  const EmulatedKernels kernels;
  for (const bool gradient : {true, false}) {
    const SoftmaxRows all = SoftmaxRows::of(rows + 2, logits.device());
    const SoftmaxRows here = all.narrow(1, rows);
    at::Tensor block = logits.clone();
    const at::Tensor got = cross_entropy(block, targets, here, gradient);
    EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"cross_entropy", 1}})) << what;
    expect_near(here.losses, sum.log() - (wide - largest).gather(1, picked), 1e-5, what);
    expect_near(here.largest, largest, 1e-7, what + ", largest");
    expect_near(here.sum, sum, 1e-5, what + ", sum");
    ASSERT_EQ(got.defined(), gradient) << what;
    if (!gradient) continue;
    EXPECT_EQ(got.scalar_type(), logits.scalar_type());
    EXPECT_TRUE(got.is_alias_of(block)) << what;
    expect_exact(got, (wide - largest).exp() / sum - onehot, what + ", gradient");
  }
}

TEST(CrossEntropyByKernels, IsTheFormulaInTheLogitsPlace) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [rows, columns] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 7}, {3, 1000}, {9, 33}, {2, 4099}}) {
      expect_the_formula(at::randn({rows, columns}).mul_(5).to(type),
                         c10::str(type, " ", rows, " x ", columns));
    }
  }
}

TEST(CrossEntropyByKernels, TakesLogitsThatDoNotLieBesideEachOther) {
  const EmulatedKernels kernels;
  const at::Tensor turned = at::randn({9, 4}).t(), targets = at::tensor({0, 8, 3, 1}, at::kLong);
  const SoftmaxRows rows = SoftmaxRows::of(4, at::kCPU);
  const at::Tensor got = cross_entropy(turned, targets, rows, true);
  const at::Tensor wanted = exact(turned).softmax(1).scatter_add_(
      1, targets.unsqueeze(1), at::full({4, 1}, -1, at::kDouble));
  expect_near(got, wanted, 1e-5, "gradient");
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"cross_entropy", 1}}));
}

TEST(CrossEntropyByKernels, ANumberThatIsNoneGivesNone) {
  const EmulatedKernels kernels;
  at::Tensor logits = at::randn({3, 40});
  logits[1][7] = std::nan("");
  const SoftmaxRows rows = SoftmaxRows::of(3, at::kCPU);
  cross_entropy(logits, at::tensor({1, 2, 3}, at::kLong), rows, true);
  EXPECT_TRUE(
      at::equal(rows.losses.isnan().flatten().to(at::kInt), at::tensor({0, 1, 0}, at::kInt)));
  EXPECT_THROW(cross_entropy(logits, at::tensor({1, 2}, at::kLong), rows, true), c10::Error);
}

}  // namespace
}  // namespace trestle
