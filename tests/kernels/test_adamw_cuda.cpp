// AdamW's and the gradient norm's CUDA kernels, run on the CPU, against libtorch's fused step and
// the formulas in fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cuda/adamw.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

constexpr double kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-8;
constexpr cuda::AdamWGroup kGroups[] = {{1e-2, 0.1}, {1e-2, 0}, {4e-2, 0.1}, {4e-2, 0}};

// A parameter as the optimizer holds it; weight is undefined where the master is the weight.
struct Slot {
  at::Tensor master, exp_avg, exp_avg_sq, weight, gradient;
  int32_t group;
};
using Slots = std::vector<Slot>;

Slot random_slot(int64_t count, at::ScalarType weights, at::ScalarType gradients, int32_t group) {
  const at::Tensor master = fenced(at::randn({count}));
  return {master,
          fenced(at::randn({count}).mul_(0.1)),
          fenced(at::rand({count}).mul_(0.1)),
          weights == at::kFloat ? at::Tensor() : fenced(master.to(weights)),
          fenced(at::randn({count}).to(gradients)),
          group};
}

// Ends of vectors and of chunks, a parameter without elements, one without a gradient, memory that
// is not aligned, all groups and types.
Slots random_slots() {
  at::manual_seed(5);
  Slots slots;
  int32_t group = 0;
  for (const int64_t count : {1, 64, 1003, 0, 16384, 16385, 40000}) {
    for (const at::ScalarType weights : {at::kFloat, at::kBFloat16}) {
      const at::ScalarType gradients = group % 3 == 0 ? at::kFloat : weights;
      slots.push_back(random_slot(count, weights, gradients, group++ % 4));
    }
  }
  slots[2].gradient = at::Tensor();
  Slot& odd = slots[4];
  odd.exp_avg = at::empty({1004}).narrow(0, 1, 1003).copy_(odd.exp_avg);
  return slots;
}

Slots copied(const Slots& slots) {
  const auto copy = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.clone() : tensor;
  };
  Slots copies;
  for (const Slot& slot : slots) {
    copies.push_back({copy(slot.master), copy(slot.exp_avg), copy(slot.exp_avg_sq),
                      copy(slot.weight), slot.gradient, slot.group});
  }
  return copies;
}

std::vector<at::Tensor> state_of(const Slots& slots) {
  std::vector<at::Tensor> state;
  for (const Slot& slot : slots) {
    state.insert(state.end(), {slot.master, slot.exp_avg, slot.exp_avg_sq});
    if (slot.weight.defined()) state.push_back(slot.weight);
  }
  return state;
}

class Table {
 public:
  explicit Table(const Slots& slots) {
    for (const Slot& slot : slots) {
      const bool has = slot.gradient.defined();
      parameters_.push_back({chunks_, slot.master.numel(), slot.master.mutable_data_ptr<float>(),
                             slot.exp_avg.mutable_data_ptr<float>(),
                             slot.exp_avg_sq.mutable_data_ptr<float>(),
                             slot.weight.defined() ? slot.weight.mutable_data_ptr() : nullptr,
                             has ? slot.gradient.const_data_ptr() : nullptr,
                             has ? type_of(slot.gradient) : cuda::Type::kFloat, slot.group});
      chunks_ += cuda::chunks_of(slot.master.numel());
    }
  }
  cuda::ParameterTable table() const {
    return {parameters_.data(), std::ssize(parameters_), chunks_};
  }

 private:
  std::vector<cuda::Parameter> parameters_;
  int64_t chunks_ = 0;
};

void step(const Slots& slots, int64_t steps, const cuda::GradientNorm* norm) {
  const Table table(slots);
  cuda::AdamW args{.table = table.table(),
                   .groups = {},
                   .beta1 = kBeta1,
                   .beta2 = kBeta2,
                   .eps = kEps,
                   .step = steps,
                   .norm = norm};
  std::ranges::copy(kGroups, args.groups);
  EXPECT_EQ(cuda::adamw(args, nullptr), 0);
}

cuda::GradientNorm norm_of(const Slots& slots, double max_norm, const float* loss = nullptr) {
  const Table table(slots);
  const at::Tensor partial = fenced_empty({table.table().chunks}, at::kDouble);
  cuda::GradientNorm result{};
  EXPECT_EQ(cuda::gradient_norm({.table = table.table(),
                                 .max_norm = max_norm,
                                 .loss = loss,
                                 .partial = partial.mutable_data_ptr<double>(),
                                 .result = &result},
                                nullptr),
            0);
  return result;
}

double exact_norm(const Slots& slots) {
  double squares = 0;
  for (const Slot& slot : slots) {
    if (slot.gradient.defined()) squares += exact(slot.gradient).square().sum().item<double>();
  }
  return std::sqrt(squares);
}

// By torch.optim.AdamW's formula in fp64.
struct Exact {
  at::Tensor master, exp_avg, exp_avg_sq;
};
Exact by_formula(const Slot& slot, int64_t steps, double factor) {
  const auto& [rate, decay] = kGroups[slot.group];
  const at::Tensor g = exact(slot.gradient) * factor;
  const at::Tensor m = kBeta1 * exact(slot.exp_avg) + (1 - kBeta1) * g;
  const at::Tensor v = kBeta2 * exact(slot.exp_avg_sq) + (1 - kBeta2) * g * g;
  const at::Tensor corrected_m = m / (1 - std::pow(kBeta1, steps));
  const at::Tensor corrected_v = v / (1 - std::pow(kBeta2, steps));
  return {
      (1 - rate * decay) * exact(slot.master) - rate * corrected_m / (corrected_v.sqrt() + kEps), m,
      v};
}

TEST(AdamWCuda, IsTheFormulaForAllParametersAtOnce) {
  const Slots before = random_slots();
  for (const int64_t steps : {1, 2, 1000}) {
    for (const float factor : {1.0F, 0.03F}) {
      const cuda::GradientNorm norm{1, factor, 1};
      const auto after = in_every_order([&] {
        const Slots slots = copied(before);
        step(slots, steps, &norm);
        return state_of(slots);
      });
      size_t next = 0;
      for (size_t i = 0; i < before.size(); ++i) {
        const Slot& slot = before[i];
        const std::string what = fmt::format("slot {}, step {}, factor {}", i, steps, factor);
        const at::Tensor master = after[next], m = after[next + 1], v = after[next + 2];
        next += 3;
        if (!slot.gradient.defined()) {
          EXPECT_TRUE(at::equal(master, slot.master) && at::equal(m, slot.exp_avg)) << what;
        } else {
          const Exact wanted = by_formula(slot, steps, factor);
          expect_near(master, wanted.master, 1e-6, what);
          expect_near(m, wanted.exp_avg, 1e-6, what + ", exp_avg");
          expect_near(v, wanted.exp_avg_sq, 1e-6, what + ", exp_avg_sq");
        }
        if (!slot.weight.defined()) continue;
        EXPECT_TRUE(at::equal(after[next++], master.to(at::kBFloat16))) << what;
      }
    }
  }
}

TEST(AdamWCuda, IsLibtorchsFusedStep) {
  at::manual_seed(6);
  const Slots before = {random_slot(1003, at::kFloat, at::kFloat, 0)};
  const Slots ours = copied(before), theirs = copied(before);
  for (int64_t steps = 1; steps <= 3; ++steps) {
    step(ours, steps, nullptr);
    std::vector<at::Tensor> masters{theirs[0].master}, gradients{theirs[0].gradient};
    std::vector<at::Tensor> averages{theirs[0].exp_avg}, squares{theirs[0].exp_avg_sq};
    std::vector<at::Tensor> counts{at::full({}, static_cast<float>(steps))};
    at::_fused_adamw_(masters, gradients, averages, squares, {}, counts, kGroups[0].learning_rate,
                      kBeta1, kBeta2, kGroups[0].weight_decay, kEps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
  expect_near(ours[0].master, exact(theirs[0].master), 1e-6, "masters");
  expect_near(ours[0].exp_avg, exact(theirs[0].exp_avg), 1e-6, "exp_avg");
  expect_near(ours[0].exp_avg_sq, exact(theirs[0].exp_avg_sq), 1e-6, "exp_avg_sq");
}

TEST(AdamWCuda, LeavesEverythingWhereTheNormIsNoNumber) {
  const Slots before = random_slots(), slots = copied(before);
  const cuda::GradientNorm norm{NAN, 1, 0};
  step(slots, 1, &norm);
  const auto wanted = state_of(before), got = state_of(slots);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(at::equal(got[i], wanted[i])) << i;
}

TEST(GradientNormCuda, IsTheNormAndTheFactorOfClipping) {
  const Slots slots = random_slots();
  const double norm = exact_norm(slots);
  const auto results = [&](double max_norm) {
    return in_every_order([&] {
      const cuda::GradientNorm got = norm_of(slots, max_norm);
      return std::vector{at::tensor({got.norm, got.factor, static_cast<float>(got.finite)})};
    })[0];
  };
  for (const double max_norm : {1.0, 0.5 * norm}) {
    const at::Tensor got = results(max_norm);
    EXPECT_NEAR(got[0].item<double>(), norm, 1e-6 * norm);
    EXPECT_NEAR(got[1].item<double>(), max_norm / (norm + 1e-6), 1e-6);
    EXPECT_EQ(got[2].item<float>(), 1);
  }
  // Below the bound, and without one.
  for (const double max_norm : {2 * norm, 0.0, -1.0}) {
    EXPECT_EQ(results(max_norm)[1].item<float>(), 1);
  }
}

TEST(GradientNormCuda, SaysWhatIsNotFinite) {
  const float sound = 2, broken = NAN;
  Slots slots = random_slots();
  EXPECT_EQ(norm_of(slots, 1, &sound).finite, 1);
  EXPECT_EQ(norm_of(slots, 1, &broken).finite, 0);
  for (const float value : {NAN, std::numeric_limits<float>::infinity()}) {
    slots.back().gradient[39999] = value;
    EXPECT_EQ(norm_of(slots, 1, &sound).finite, 0) << value;
  }
  EXPECT_EQ(norm_of({}, 1).finite, 1);
  EXPECT_EQ(norm_of({}, 1).norm, 0);
}

}  // namespace
}  // namespace trestle
