// LoRA and DoRA inside a projection against the dense formula, and the row norms that DoRA keeps.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "linear/linear.h"

namespace trestle {
namespace {

constexpr int64_t kIn = 48, kOut = 600;  // over one block of rows
const FusedLayout kQkv = FusedLayout::qkv(5, 4, 20);

using Pairs = std::vector<AdapterSpec::Pair>;
const Pairs kWhole = {{"", 4, 8}};
const Pairs kParts = {{"q_proj", 4, 8}, {"k_proj", 3, 5}, {"v_proj", 2, 1}};
const Pairs kSomeParts = {{"q_proj", 4, 8}, {"v_proj", 2, 1}};

at::Tensor randn(at::IntArrayRef shape, double scale = 1) { return at::randn(shape) * scale; }

// Every pair of the adapter, with the index of its part.
std::vector<std::pair<size_t, LowRank*>> pairs_of(const Adapter& adapter) {
  if (adapter.whole()) return {{0, adapter.whole().get()}};
  std::vector<std::pair<size_t, LowRank*>> pairs;
  for (size_t i = 0; i < adapter.pairs().size(); ++i) {
    if (adapter.pairs()[i]) pairs.emplace_back(i, adapter.pairs()[i].get());
  }
  return pairs;
}

// Weights, A, B and m at random; m at some distance from the norms.
Linear make_linear(const Pairs& pairs, bool dora, double dropout = 0,
                   at::ScalarType dtype = at::kFloat) {
  at::manual_seed(7);
  Linear linear(kIn, kOut, {dtype, at::kCPU}, /*bias=*/true, kQkv);
  linear.attach(std::make_shared<Adapter>(
      kIn, kOut, kQkv, AdapterSpec{.pairs = pairs, .dropout = dropout, .dora = dora},
      at::TensorOptions().dtype(dtype)));
  const at::NoGradGuard no_grad;
  linear.weight.copy_(randn({kOut, kIn}, 0.3));
  linear.bias.copy_(randn({kOut}));
  for (const auto& [part, pair] : pairs_of(*linear.adapter())) {
    pair->a.copy_(randn(pair->a.sizes(), 0.3));
    pair->b.copy_(randn(pair->b.sizes(), 0.3));
    if (dora) pair->magnitude.copy_(1 + at::rand(pair->magnitude.sizes()));
  }
  return linear;
}

// s B A over the fused rows as one dense matrix, and m (the norm where a part has none), by the
// formulas and not by the code under test; they keep the graph.
struct Dense {
  at::Tensor delta, magnitude, norms;
};

Dense dense_of(const Linear& linear) {
  const Adapter& adapter = *linear.adapter();
  Dense dense;
  const auto product = [](const LowRank& pair) {
    const double scale = pair.alpha() / static_cast<double>(pair.a.size(0));
    return scale * at::mm(pair.b.to(at::kDouble), pair.a.to(at::kDouble));
  };
  if (adapter.whole()) {
    dense.delta = product(*adapter.whole());
  } else {
    std::vector<at::Tensor> deltas;
    for (size_t i = 0; i < 3; ++i) {
      deltas.push_back(adapter.pairs()[i] ? product(*adapter.pairs()[i])
                                          : at::zeros({kQkv.part_size(i, kOut), kIn}, at::kDouble));
    }
    dense.delta = kQkv.fuse(deltas, 0);
  }
  const at::Tensor sum = linear.weight.to(at::kDouble) + dense.delta;
  dense.norms = at::linalg_vector_norm(sum, 2, at::IntArrayRef{1}).detach();
  dense.magnitude = dense.norms;
  if (!adapter.is_dora()) return dense;
  if (adapter.whole()) {
    dense.magnitude = adapter.whole()->magnitude.to(at::kDouble);
  } else {
    std::vector<at::Tensor> parts = kQkv.split(dense.norms, 0);
    for (const auto& [part, pair] : pairs_of(adapter)) {
      parts[part] = pair->magnitude.to(at::kDouble);
    }
    dense.magnitude = kQkv.fuse(parts, 0);
  }
  return dense;
}

double relative_error(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.to(at::kDouble);
  return ((got.to(at::kDouble) - w).abs().max() / w.abs().max()).item<double>();
}

class EveryForm : public ::testing::TestWithParam<std::pair<const char*, Pairs>> {};

INSTANTIATE_TEST_SUITE_P(Forms, EveryForm,
                         ::testing::Values(std::pair{"whole", kWhole}, std::pair{"parts", kParts},
                                           std::pair{"someparts", kSomeParts}),
                         [](const auto& info) { return std::string(info.param.first); });

// users' pain point 21: what DoRA costs.
TEST_P(EveryForm, RowNormsAreThoseOfTheDenseSum) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const Linear linear = make_linear(GetParam().second, true, 0, dtype);
    const at::Tensor norms = linear.row_norms();
    EXPECT_EQ(norms.scalar_type(), at::kFloat);
    const at::Tensor wanted = dense_of(linear).norms;
    EXPECT_LE(((norms.to(at::kDouble) - wanted) / wanted).abs().max().item<double>(), 1e-6);
  }
}

TEST_P(EveryForm, ForwardAndGradientsAreTheDenseFormulas) {
  for (const bool dora : {false, true}) {
    const Linear linear = make_linear(GetParam().second, dora);
    const at::Tensor x = randn({9, kIn}).requires_grad_();
    const at::Tensor up = randn({9, kOut});
    std::vector<at::Tensor> leaves = {x};
    if (!dora) leaves.insert(leaves.end(), {linear.weight, linear.bias});
    for (const auto& [part, pair] : pairs_of(*linear.adapter())) {
      leaves.insert(leaves.end(), {pair->a, pair->b});
      if (dora) leaves.push_back(pair->magnitude);
    }
    const at::Tensor y = linear.forward(x);
    const auto got = torch::autograd::grad({y}, leaves, {up});

    const Dense dense = dense_of(linear);
    const at::Tensor weight = (linear.weight.to(at::kDouble) + dense.delta) *
                              (dense.magnitude / dense.norms).unsqueeze(1);
    const at::Tensor wanted = at::linear(x.to(at::kDouble), weight, linear.bias.to(at::kDouble));
    const auto gradients = torch::autograd::grad({wanted}, leaves, {up.to(at::kDouble)});
    EXPECT_LE(relative_error(y, wanted), 1e-6) << dora;
    for (size_t i = 0; i < leaves.size(); ++i) {
      EXPECT_LE(relative_error(got[i], gradients[i]), 1e-5) << dora << " gradient " << i;
    }
  }
}

TEST_P(EveryForm, MergedIsTheSameProjectionRoundedOnce) {
  for (const bool dora : {false, true}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const at::NoGradGuard no_grad;
      Linear linear = make_linear(GetParam().second, dora, 0, dtype);
      const Dense dense = dense_of(linear);
      const at::Tensor wanted = (linear.weight.to(at::kDouble) + dense.delta) *
                                (dense.magnitude / dense.norms).unsqueeze(1);
      linear.merge_adapter();
      EXPECT_EQ(linear.adapter(), nullptr);
      EXPECT_EQ(linear.weight.scalar_type(), dtype);
      // Half a unit in the last place, and fp32's rounding before it.
      const double half_ulp = dtype == at::kFloat ? 1e-6 : 1.0 / 256 * 1.0001;
      const at::Tensor error = (linear.weight.to(at::kDouble) - wanted).abs();
      EXPECT_LE((error - half_ulp * wanted.abs()).max().item<double>(), 1e-6) << dora;
    }
  }
}

// peft's DoraLinearLayer and Megatron Bridge's DoRALinear: W x + (g - 1) W d + g s B A d.
TEST_P(EveryForm, DropoutLeavesTheBasesOutputAlone) {
  Linear linear = make_linear(GetParam().second, true, 0.4);
  const at::NoGradGuard no_grad;
  const at::Tensor x = randn({9, kIn});
  at::manual_seed(3);
  const at::Tensor dropped = at::dropout(x, 0.4, true);
  ASSERT_FALSE(at::equal(dropped, x));
  at::manual_seed(3);
  const at::Tensor y = linear.forward(x);
  const Dense dense = dense_of(linear);
  const at::Tensor weight = linear.weight.to(at::kDouble);
  const at::Tensor gain = dense.magnitude / dense.norms;
  const at::Tensor wanted = at::linear(x.to(at::kDouble), weight, linear.bias.to(at::kDouble)) +
                            (gain - 1) * at::linear(dropped.to(at::kDouble), weight) +
                            gain * at::linear(dropped.to(at::kDouble), dense.delta);
  EXPECT_LE(relative_error(y, wanted), 1e-6);
  linear.eval();
  const at::Tensor evaluated = linear.forward(x);
  EXPECT_TRUE(at::equal(linear.forward(x), evaluated));
}

// users' pain point 21: what DoRA costs.
TEST(Dora, NormsAreKeptUntilAWeightChanges) {
  const Linear linear = make_linear(kParts, true);
  const at::NoGradGuard no_grad;
  const void* first = linear.row_norms().const_data_ptr();
  EXPECT_EQ(linear.row_norms().const_data_ptr(), first);
  LowRank& pair = *linear.adapter()->pairs()[1];
  for (const at::Tensor& changed : {pair.a, pair.b, linear.weight}) {
    const at::Tensor before = linear.row_norms().clone();
    at::Tensor(changed.detach()).mul_(1.5);
    EXPECT_FALSE(at::equal(linear.row_norms(), before));
    EXPECT_LE(relative_error(linear.row_norms(), dense_of(linear).norms), 1e-6);
  }
  const void* last = linear.row_norms().const_data_ptr();
  at::Tensor(pair.magnitude.detach()).mul_(2);
  EXPECT_EQ(linear.row_norms().const_data_ptr(), last);
}

// As torch's fused AdamW does.
void change_unseen(const at::Tensor& tensor) {
  const int64_t version = tensor._version();
  auto* data = static_cast<float*>(tensor.mutable_data_ptr());
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] *= 1.5F;
  ASSERT_EQ(tensor._version(), version);
}

TEST(Dora, TrainingTrustsNoVersions) {
  const Linear linear = make_linear(kWhole, true);
  const auto evaluated = [&] {
    const at::NoGradGuard no_grad;
    return relative_error(linear.row_norms(), dense_of(linear).norms);
  };
  EXPECT_LE(evaluated(), 1e-6);
  for (int step = 0; step < 2; ++step) {
    EXPECT_LE(relative_error(linear.row_norms(), dense_of(linear).norms), 1e-6);
    for (const at::Tensor& trained : {linear.weight, linear.adapter()->whole()->b}) {
      change_unseen(trained);
    }
    EXPECT_LE(evaluated(), 1e-6);
  }
}

TEST(Dora, InferenceBeforeTraining) {
  const Linear linear = make_linear(kWhole, true);
  const at::Tensor x = randn({3, kIn});
  at::Tensor inferred;
  {
    const c10::InferenceMode inference;
    inferred = linear.forward(x).clone();
  }
  const at::Tensor y = linear.forward(x);
  EXPECT_TRUE(at::equal(y.detach(), inferred));
  y.sum().backward();
  EXPECT_TRUE(linear.adapter()->whole()->magnitude.grad().defined());
}

TEST(Dora, StartsAsTheBase) {
  for (const Pairs& pairs : {kWhole, kSomeParts}) {
    const Linear linear = make_linear(pairs, true);
    const at::NoGradGuard no_grad;
    for (const auto& [part, pair] : pairs_of(*linear.adapter())) pair->b.zero_();
    const at::Tensor x = randn({3, kIn});
    const at::Tensor plain = at::linear(x, linear.weight) + linear.bias;
    EXPECT_FALSE(at::equal(linear.forward(x), plain));
    EXPECT_FALSE(linear.adapter()->changes_nothing(linear.weight));
    linear.adapter()->set_magnitude(linear.row_norms());
    EXPECT_TRUE(at::equal(linear.forward(x), plain));
    EXPECT_TRUE(linear.adapter()->changes_nothing(linear.weight));
    EXPECT_TRUE(at::equal(linear.adapter()->merged(linear.weight), linear.weight));
  }
}

TEST(Dora, ARowOfZerosStaysZeros) {
  const Linear linear = make_linear(kWhole, true);
  const at::NoGradGuard no_grad;
  at::Tensor weight = linear.weight, b = linear.adapter()->whole()->b;
  weight[17].zero_();
  b[17].zero_();
  const at::Tensor y = linear.forward(randn({3, kIn}));
  EXPECT_TRUE(y.isfinite().all().item<bool>());
  EXPECT_TRUE(at::equal(y.select(1, 17), linear.bias[17].expand({3})));
}

TEST(Lora, ChangesNothingWhileAFactorIsZero) {
  const Linear linear = make_linear(kParts, false);
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(linear.adapter()->changes_nothing(linear.weight));
  at::Tensor(linear.adapter()->pairs()[0]->a).zero_();
  at::Tensor(linear.adapter()->pairs()[1]->b).zero_();
  EXPECT_FALSE(linear.adapter()->changes_nothing(linear.weight));
  at::Tensor(linear.adapter()->pairs()[2]->b).zero_();
  EXPECT_TRUE(linear.adapter()->changes_nothing(linear.weight));
}

}  // namespace
}  // namespace trestle
