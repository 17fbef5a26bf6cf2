// Parts of a step by themselves: clipping, and which tensor is to blame for a loss that is no
// number.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "golden.h"
#include "kernels/optimizer.h"
#include "train/diagnose.h"

namespace trestle {
namespace {

using testing::Golden;

// torch.nn.utils.clip_grad_norm_: times max_norm / (norm + 1e-6) where that is below 1.
TEST(ClipGradNorm, IsTorchsForSmallGradientsToo) {
  const auto clipped = [](double max_norm) {
    at::Tensor parameter = at::zeros({2}).requires_grad_();
    parameter.mutable_grad() = at::tensor({3e-6, 4e-6}, at::kFloat);
    const AdamW::NamedTensors parameters = {{"x", parameter}};
    const double norm = grad_norm(parameters).item<double>();
    EXPECT_NEAR(norm, 5e-6, 1e-11);
    clip_gradients(parameters, norm, max_norm);
    return parameter.grad();
  };
  const at::Tensor whole = at::tensor({3e-6, 4e-6}, at::kFloat);
  EXPECT_TRUE(at::allclose(clipped(2e-6), whole / 3, 1e-5, 0));
  EXPECT_TRUE(at::allclose(clipped(5.4e-6), whole * 0.9, 1e-5, 0));
  EXPECT_TRUE(at::equal(clipped(6.1e-6), whole));
  EXPECT_TRUE(at::equal(clipped(0), whole));
}

TEST(Blame, LogitsOfWhatIsAskedForAlone) {
  const Golden golden("untied");
  const auto model = golden.model();
  const at::NoGradGuard no_grad;
  Batch batch{golden.input(), golden.shifted_labels()};
  EXPECT_EQ(first_bad_tensor(*model, {}, batch), "no tensor of a second forward");
  // Finite weights with which every logit overflows.
  int64_t filled = 0;
  for (const auto& entry : model->named_parameters()) {
    if (entry.key().ends_with("final_layernorm.weight") ||
        entry.key().ends_with("output_layer.weight")) {
      entry.value().fill_(1e38);
      ++filled;
    }
  }
  ASSERT_EQ(filled, 2);
  EXPECT_EQ(first_bad_tensor(*model, {}, batch), "logits");
  batch.labels_T.fill_(-100);
  EXPECT_EQ(first_bad_tensor(*model, {}, batch), "no tensor of a second forward");
}

}  // namespace
}  // namespace trestle
