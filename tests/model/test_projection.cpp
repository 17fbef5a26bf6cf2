// A projection with its low-rank update: added into the product's output, and with an input that is
// made again instead of kept.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "linear/projection.h"
#include "memory.h"
#include "model/decoder.h"

namespace trestle {
namespace {

using testing::held_bytes;
using testing::peak_bytes;

constexpr int64_t kTokens = 24, kRank = 4;
const TextConfig kText = {.hidden_size = 48,
                          .intermediate_size = 80,
                          .num_layers = 1,
                          .num_attention_heads = 6,
                          .num_query_groups = 2,
                          .head_dim = 16,
                          .rope = {}};
constexpr int64_t kHeads = 6 * 16, kKeys = 2 * 16;

double relative_error(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.to(at::kDouble);
  return ((got.to(at::kDouble) - w).abs().max() / w.abs().max()).item<double>();
}

struct Training {
  const char* name;
  /// Nothing: the weights train.
  bool adapted = true;
  bool dora = false;
  double dropout = 0;
  at::ScalarType dtype = at::kFloat;
};

// Random values; an adapter in every projection, or weights that train.
void settle(torch::nn::Module& module, const Training& training) {
  const at::NoGradGuard no_grad;
  for (at::Tensor& parameter : module.parameters()) {
    parameter.copy_(at::randn(parameter.sizes()) * 0.2 + (parameter.dim() == 1 ? 1 : 0));
    parameter.requires_grad_(!training.adapted);
  }
  if (!training.adapted) return;
  std::vector<Linear*> linears = {dynamic_cast<Linear*>(&module)};
  for (const auto& each : module.modules(/*include_self=*/false)) {
    linears.push_back(dynamic_cast<Linear*>(each.get()));
  }
  for (Linear* linear : linears) {
    if (linear == nullptr) continue;
    const AdapterSpec spec{
        .pairs = {{"", kRank, 8}}, .dropout = training.dropout, .dora = training.dora};
    auto adapter =
        std::make_shared<Adapter>(linear->weight.size(1), linear->weight.size(0), linear->layout(),
                                  spec, at::TensorOptions().dtype(training.dtype));
    for (at::Tensor& parameter : adapter->parameters()) {
      parameter.copy_(at::randn(parameter.sizes()) * 0.2 + (parameter.dim() == 1 ? 1 : 0));
    }
    linear->attach(std::move(adapter));
  }
}

class EveryTraining : public ::testing::TestWithParam<Training> {
 protected:
  void SetUp() override { at::manual_seed(5); }
  Build build() const { return {GetParam().dtype, at::kCPU}; }
  at::Tensor rows(int64_t width) const {
    return at::randn({kTokens, width}).to(GetParam().dtype).requires_grad_();
  }
  int64_t bytes(int64_t per_token) const {
    return kTokens * per_token * static_cast<int64_t>(c10::elementSize(GetParam().dtype));
  }
};

INSTANTIATE_TEST_SUITE_P(Trainings, EveryTraining,
                         ::testing::Values(Training{"lora"}, Training{"dropout", true, false, 0.3},
                                           Training{"lora_bf16", true, false, 0, at::kBFloat16},
                                           Training{"dora", true, true}, Training{"full", false},
                                           Training{"full_bf16", false, false, 0, at::kBFloat16}),
                         [](const auto& info) { return info.param.name; });

// Gradients of x and of all that trains.
std::vector<at::Tensor> gradients(const torch::nn::Module& module, const at::Tensor& x,
                                  const std::function<at::Tensor()>& forward) {
  std::vector<at::Tensor> leaves = {x};
  for (const at::Tensor& parameter : module.parameters()) {
    if (parameter.requires_grad()) leaves.push_back(parameter);
  }
  at::manual_seed(9);
  const at::Tensor y = forward();
  auto found = torch::autograd::grad({y}, leaves, {at::ones_like(y)});
  found.push_back(y.detach());
  return found;
}

void expect_same_bits(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  ASSERT_GE(got.size(), 4U);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(at::equal(got[i], wanted[i])) << i;
}

TEST_P(EveryTraining, ANormedInputIsNotKept) {
  NormLinear linear(kText.hidden_size, 64, 1e-5, build(), FusedLayout::gate_up());
  settle(linear, GetParam());
  const at::Tensor x = rows(kText.hidden_size);
  const auto kept = [&] {
    return linear.Linear::forward(rms_norm(x, linear.layer_norm_weight, 1e-5));
  };
  const auto remade = [&] { return linear.forward(x); };
  held_bytes(remade);  // DoRA keeps norms, which the next forward replaces
  EXPECT_EQ(held_bytes(kept) - held_bytes(remade), bytes(kText.hidden_size));
  expect_same_bits(gradients(linear, x, remade), gradients(linear, x, kept));
}

TEST_P(EveryTraining, AnActivatedInputIsNotKept) {
  Mlp mlp(kText, build());
  settle(mlp, GetParam());
  const at::Tensor x = rows(kText.hidden_size);
  const auto kept = [&] {
    const auto halves = mlp.linear_fc1->forward(x).chunk(2, -1);
    return mlp.linear_fc2->forward(swiglu(halves[0], halves[1]));
  };
  const auto remade = [&] { return mlp.forward(x); };
  held_bytes(remade);  // DoRA keeps norms, which the next forward replaces
  EXPECT_EQ(held_bytes(kept) - held_bytes(remade), bytes(kText.intermediate_size));
  expect_same_bits(gradients(mlp, x, remade), gradients(mlp, x, kept));
}

// What a part of a layer keeps by itself: beside what it is given, its result included.
template <class Forward, class... Inputs>
int64_t own_bytes(const Forward& forward, const Inputs&... inputs) {
  return held_bytes([&] { return forward(inputs.detach().requires_grad_()...); });
}

TEST(LayerMemory, ALoraLayerKeepsWhatNothingMakesAgain) {
  at::manual_seed(5);
  DecoderLayer layer(kText, {at::kFloat, at::kCPU});
  settle(layer, {"lora"});
  const int64_t T = kTokens, D = kText.hidden_size, F = kText.intermediate_size;
  const LayerContext context{
      {at::randn({T, 16}), at::randn({T, 16})}, at::randn({T, 1, 1, 1}), Packing({T})};
  const at::Tensor x = at::randn({T, D}).requires_grad_();
  const int64_t held = held_bytes([&] { return layer.forward(x, context, 0); });

  const auto floats = [&](int64_t per_token) { return T * per_token * 4; };
  const at::Tensor k_TGH = at::randn({T, 2, 16});
  const int64_t attention =
      own_bytes([&](const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) { return causal_attention(q, k, v, context.packing); },
                at::randn({T, 2, 3, 16}), k_TGH, k_TGH);
  const at::Tensor ones = at::ones({D});
  const int64_t norm =
      own_bytes([&](const at::Tensor& rows) { return rms_norm(rows, ones, 1e-5); }, x) - floats(D);
  const int64_t activation =
      own_bytes([](const at::Tensor& gate_up) { return swiglu(gate_up); }, at::randn({T, 2 * F})) -
      floats(F);
  // q, k, v; behind attention the stream; gate and up; the layer's result; x A^T of all four.
  const int64_t wanted = 2 * norm + floats(kHeads + 2 * kKeys) + attention + floats(D) +
                         floats(2 * F) + activation + floats(D) + floats(4 * kRank);
  EXPECT_EQ(held, wanted);
  EXPECT_LE(norm, floats(1));
}

class Update : public ::testing::Test {
 protected:
  static constexpr int64_t kIn = 64, kOut = 96;
  void SetUp() override { at::manual_seed(5); }

  at::Tensor weight_ = at::randn({kOut, kIn}), bias_ = at::randn({kOut});
  at::Tensor a_ = at::randn({kRank, kIn}).requires_grad_(),
             b_ = at::randn({kOut, kRank}).requires_grad_();
  HeldMatrix matrix_{HeldMatrix::Form::kDense, {{weight_}}};
  LowRankUpdate update_{FusedLayout::plain(), kOut, {0.5}, {a_, b_}};
  at::Tensor x_ = at::randn({kTokens, kIn}).requires_grad_();
};

TEST_F(Update, IsAddedWithoutATensorOfItsOwn) {
  const int64_t row = kTokens * 4;
  const auto run = [&] { return projected(x_, matrix_, bias_, update_); };
  EXPECT_EQ(peak_bytes(run), row * (kOut + kRank));
  EXPECT_EQ(held_bytes(run), row * (kOut + kRank));
  const at::Tensor y = run(), up = at::randn({kTokens, kOut});
  // x's gradient, that of x A^T, and those of A and B.
  EXPECT_EQ(peak_bytes([&] {
              torch::autograd::grad({y}, {x_, a_, b_}, {up});
            }),
            row * (kIn + kRank) + (kIn + kOut) * kRank * 4);
}

TEST_F(Update, SeesADroppedInputThatTheProductDoesNot) {
  update_.dropout = 0.4;
  at::manual_seed(3);
  const auto [dropped, mask] = at::native_dropout(x_.detach(), 0.4, true);
  ASSERT_FALSE(at::equal(dropped, x_));
  at::manual_seed(3);
  const at::Tensor y = projected(x_, matrix_, bias_, update_);
  const at::Tensor up = at::randn({kTokens, kOut});
  const auto got = torch::autograd::grad({y}, {x_, a_, b_}, {up});

  const auto wide = [](const at::Tensor& tensor) { return tensor.detach().to(at::kDouble); };
  const at::Tensor x = wide(x_).requires_grad_(), a = wide(a_).requires_grad_(),
                   b = wide(b_).requires_grad_();
  const at::Tensor seen = x * wide(mask) / 0.6;
  const at::Tensor wanted =
      at::linear(x, wide(weight_), wide(bias_)) + 0.5 * at::mm(at::mm(seen, a.t()), b.t());
  const auto gradients = torch::autograd::grad({wanted}, {x, a, b}, {wide(up)});
  EXPECT_LE(relative_error(y, wanted.detach()), 1e-6);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LE(relative_error(got[i], gradients[i]), 1e-5);
}

TEST_F(Update, AsksForNoGradientsThatNobodyWants) {
  const at::Tensor x = x_.detach();
  const at::Tensor y = projected(x, matrix_, bias_, update_);
  const auto found = torch::autograd::grad({y}, {a_, b_}, {at::ones_like(y)});
  EXPECT_TRUE(found[0].defined() && found[1].defined());
  a_.requires_grad_(false);
  b_.requires_grad_(false);
  EXPECT_FALSE(projected(x, matrix_, bias_, update_).requires_grad());
}

}  // namespace
}  // namespace trestle
