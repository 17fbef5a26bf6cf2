// Each loop, of every capability that is here, against the operators that it stands for.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cpu/row_loops.h"
#include "kernels/cache_attention.h"

namespace trestle {
namespace {

std::vector<const RowLoops*> loops_here() {
  std::vector<const RowLoops*> here;
  for (const char* capability : {"AVX512", "AVX2", "DEFAULT"}) {
    if (const RowLoops* loops = row_loops(capability)) here.push_back(loops);
  }
  return here;
}

template <class Value>
Value* data(const at::Tensor& tensor) {
  return static_cast<Value*>(tensor.data_ptr());
}

template <class Value>
at::ScalarType dtype_of() {
  return sizeof(Value) == sizeof(float) ? at::kFloat : at::kBFloat16;
}

// Of bf16 all but few values are the same to the bit: sums before a rounding have another order.
template <class Value>
void expect_near(const at::Tensor& given, const at::Tensor& wanted) {
  const at::Tensor a = given.to(at::kDouble), b = wanted.to(at::kDouble);
  const double most = sizeof(Value) == sizeof(float) ? 1e-6 : 1.0 / 128;
  EXPECT_TRUE(((a - b).abs() <= most * (b.abs() + 1)).all().template item<bool>());
  if (sizeof(Value) == sizeof(float)) return;
  EXPECT_LE(a.ne(b).to(at::kDouble).mean().template item<double>(), 0.02);
}

template <class Value>
void expect_loops_of_type() {
  const auto options = at::TensorOptions(dtype_of<Value>());
  at::manual_seed(1);
  for (const RowLoops* all : loops_here()) {
    const RowLoops::Of<Value>& loops = all->template of<Value>();
    for (const int64_t columns : {3072, 128, 37}) {
      const at::Tensor x = at::randn({columns}, options), weight = at::randn({columns}, options);
      at::Tensor y = at::empty_like(x);
      loops.rms_norm(data<Value>(x), data<Value>(weight), columns, 1e-5F, data<Value>(y));
      const at::Tensor wide = x.to(at::kFloat);
      expect_near<Value>(
          y, weight * (wide * at::rsqrt(wide.square().mean() + 1e-5)).to(x.scalar_type()));

      const at::Tensor gate = at::randn({columns}, options) * 6;
      loops.swiglu(data<Value>(gate), data<Value>(weight), columns, data<Value>(y));
      expect_near<Value>(y, at::silu(gate) * weight);
    }
    for (const int64_t size : {128, 64, 12}) {
      const at::Tensor x = at::randn({size}, options), angles = at::randn({size / 2}) * 100;
      const at::Tensor cos = at::cat({angles.cos(), angles.cos()}).to(options),
                       sin = at::cat({angles.sin(), angles.sin()}).to(options),
                       scale = at::full({1}, 1.25, options);
      const auto halves = x.chunk(2);
      const at::Tensor turned = x * cos + at::cat({-halves[1], halves[0]}) * sin;
      at::Tensor y = at::empty_like(x);
      loops.rotate(data<Value>(x), data<Value>(cos), data<Value>(sin), nullptr, size,
                   data<Value>(y));
      expect_near<Value>(y, turned);
      loops.rotate(data<Value>(x), data<Value>(cos), data<Value>(sin), data<Value>(scale), size,
                   data<Value>(y));
      expect_near<Value>(y, turned * scale);
    }
  }
}

TEST(RowLoops, AreTheirOperatorsInFloat32) { expect_loops_of_type<float>(); }
TEST(RowLoops, AreTheirOperatorsInBfloat16) { expect_loops_of_type<uint16_t>(); }

// The gradients that libtorch makes of fp64 operators, of values that this type holds.
template <class Value>
void expect_gradients_of_type() {
  const auto dtype = dtype_of<Value>();
  const auto options = at::TensorOptions(dtype);
  at::manual_seed(2);
  const auto leaf = [](const at::Tensor& x) { return x.to(at::kDouble).requires_grad_(); };
  const auto near = [&](const at::Tensor& given, const at::Tensor& wanted) {
    const at::Tensor a = given.to(at::kDouble), b = wanted.to(at::kDouble);
    const double most = sizeof(Value) == sizeof(float) ? 3e-6 : 1.0 / 64;
    EXPECT_TRUE(((a - b).abs() <= most * (b.abs() + 1)).all().template item<bool>())
        << (a - b).abs().max();
  };
  for (const RowLoops* all : loops_here()) {
    const RowLoops::Of<Value>& loops = all->template of<Value>();
    for (const int64_t columns : {3072, 128, 37}) {
      const at::Tensor x = at::randn({columns}, options), weight = at::randn({columns}, options),
                       up = at::randn({columns}, options), dy = at::randn({columns}, options);
      at::Tensor dx = at::empty_like(x), dup = at::empty_like(x), y = at::empty_like(x);
      at::Tensor dw = at::ones({columns});  // what is there is added to
      const float inverse =
          loops.rms_norm(data<Value>(x), data<Value>(weight), columns, 1e-5F, data<Value>(y));
      loops.rms_norm_backward(data<Value>(x), data<Value>(weight), data<Value>(dy), inverse,
                              columns, data<Value>(dx), data<float>(dw));
      const at::Tensor wide = leaf(x), scale = leaf(weight);
      (wide * at::rsqrt(wide.square().mean() + 1e-5) * scale).backward(dy.to(at::kDouble));
      near(dx, wide.grad());
      near(dw - 1, scale.grad());
      const at::Tensor kept = dx.clone();
      loops.rms_norm_backward(data<Value>(x), data<Value>(weight), data<Value>(dy), inverse,
                              columns, data<Value>(dx), nullptr);
      EXPECT_TRUE(at::equal(dx, kept));

      const at::Tensor gate = leaf(x * 4), other = leaf(up), half = gate.detach().to(dtype);
      loops.swiglu_backward(data<Value>(half), data<Value>(up), data<Value>(dy), columns,
                            data<Value>(dx), data<Value>(dup));
      (at::silu(gate) * other).backward(dy.to(at::kDouble));
      near(dx, gate.grad());
      near(dup, other.grad());
    }
    for (const int64_t size : {128, 64, 12}) {
      const at::Tensor dy = at::randn({size}, options), angles = at::randn({size}) * 100;
      // Both halves' own, as a tensor of any table may have.
      const at::Tensor cos = angles.cos().to(dtype), sin = angles.sin().to(dtype);
      for (const bool scaled : {false, true}) {
        const at::Tensor scale = at::full({1}, 1.25, options), x = leaf(at::randn({size}));
        at::Tensor dx = at::empty_like(dy);
        loops.rotate_backward(data<Value>(dy), data<Value>(cos), data<Value>(sin),
                              scaled ? data<Value>(scale) : nullptr, size, data<Value>(dx));
        const auto halves = x.chunk(2);
        const at::Tensor turned =
            x * cos.to(at::kDouble) + at::cat({-halves[1], halves[0]}) * sin.to(at::kDouble);
        (turned * (scaled ? 1.25 : 1.0)).backward(dy.to(at::kDouble));
        near(dx, x.grad());
      }
    }
  }
}

TEST(RowLoops, GiveTheOperatorsGradientsInFloat32) { expect_gradients_of_type<float>(); }
TEST(RowLoops, GiveTheOperatorsGradientsInBfloat16) { expect_gradients_of_type<uint16_t>(); }

TEST(RowLoops, FindTheFirstOfTheLargest) {
  for (const RowLoops* all : loops_here()) {
    for (const int64_t columns : {1, 15, 1024, 5000}) {
      std::vector<float> x(static_cast<size_t>(columns), -3.0F);
      float largest = 0;
      EXPECT_EQ(all->fp32.argmax(x.data(), columns, &largest), 0);
      EXPECT_EQ(largest, -3);
      for (const int64_t place : {columns - 1, columns / 2, columns / 3}) {
        x[static_cast<size_t>(place)] = 2.5F;  // each before the one before
        EXPECT_EQ(all->fp32.argmax(x.data(), columns, &largest), place);
        EXPECT_EQ(largest, 2.5F);
        const at::Tensor half = at::tensor(x).to(at::kBFloat16);
        EXPECT_EQ(all->bf16.argmax(data<uint16_t>(half), columns, &largest), place);
      }
      x.back() = NAN;
      all->fp32.argmax(x.data(), columns, &largest);
      EXPECT_TRUE(std::isnan(largest));
    }
  }
}

TEST(RowLoops, PassOnWhatIsNoNumber) {
  for (const RowLoops* all : loops_here()) {
    std::vector<float> x(64, 1.0F), y(64), weight(64, 1.0F);
    x[40] = NAN;
    all->fp32.rms_norm(x.data(), weight.data(), 64, 1e-5F, y.data());
    EXPECT_TRUE(std::isnan(y[3]));
    all->fp32.swiglu(x.data(), weight.data(), 64, y.data());
    EXPECT_TRUE(std::isnan(y[40]) && std::isfinite(y[39]));
    // Far from 0 there is no overflow to NaN.
    x[40] = -200;
    x[41] = 200;
    all->fp32.swiglu(x.data(), weight.data(), 64, y.data());
    EXPECT_NEAR(y[40], 0, 1e-30);
    EXPECT_EQ(y[41], 200);
  }
}

at::Tensor attention_in_fp64(const at::Tensor& q_CNH, const at::Tensor& k_SH,
                             const at::Tensor& v_SH, int64_t before) {
  const int64_t C = q_CNH.size(0), S = k_SH.size(0);
  const at::Tensor q = q_CNH.to(at::kDouble), k = k_SH.to(at::kDouble), v = v_SH.to(at::kDouble);
  at::Tensor scores = at::matmul(q, k.t()) / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor seen =
      at::arange(S).view({1, 1, S}).le(at::arange(before, before + C).view({C, 1, 1}));
  scores = scores.masked_fill(~seen, -INFINITY);
  return at::matmul(at::softmax(scores, -1), v);
}

// Several sequences of unlike lengths, one to five tokens each, over and under a block of keys.
TEST(CacheAttention, IsThatOfWholeSequences) {
  at::manual_seed(2);
  constexpr int64_t kGroups = 2, kHeads = 4, kCapacity = 150;
  for (const int64_t size : {128, 24}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const std::vector<int64_t> lengths = {0, 31, 32, 140}, added = {1, 5, 2, 1};
      const at::Tensor keys = at::randn({4, kGroups, kCapacity, size}).to(dtype),
                       values = at::randn({4, kGroups, kCapacity, size}).to(dtype),
                       q = (at::randn({9, kGroups, kHeads, size}) * 2).to(dtype);
      ASSERT_TRUE(takes_cache_attention(q, added));
      const at::Tensor y =
          cache_attention(q, keys, values, lengths, added).view({9, kGroups, kHeads, size});
      int64_t first = 0;
      for (size_t b = 0; b < lengths.size(); ++b) {
        for (int64_t g = 0; g < kGroups; ++g) {
          const auto slab = [&](const at::Tensor& all) {
            return all[static_cast<int64_t>(b)][g].narrow(0, 0, lengths[b] + added[b]);
          };
          const at::Tensor wanted = attention_in_fp64(q.narrow(0, first, added[b]).select(1, g),
                                                      slab(keys), slab(values), lengths[b]);
          const at::Tensor given = y.narrow(0, first, added[b]).select(1, g).to(at::kDouble);
          const double error = ((given - wanted).norm() / wanted.norm()).item<double>();
          EXPECT_LE(error, dtype == at::kFloat ? 1e-6 : 3e-3) << size << " of sequence " << b;
        }
        first += added[b];
      }
    }
  }
}

// Every capability's loop, and each token's bits alone and beside those before it.
TEST(RowLoops, AttendAlikeAloneAndBesideOthers) {
  at::manual_seed(3);
  constexpr int64_t kQueries = 12, kKeys = 75, kSize = 40;
  const at::Tensor q = at::randn({kQueries, kSize}), keys = at::randn({kKeys, kSize}),
                   values = at::randn({kKeys, kSize});
  std::vector<int64_t> limits;
  for (int64_t i = 0; i < kQueries; ++i) limits.push_back(kKeys - kQueries + i + 1);
  std::vector<float> work(static_cast<size_t>(attention_work(kQueries, kSize)));
  for (const RowLoops* all : loops_here()) {
    const auto attend = [&](int64_t first, int64_t count) {
      at::Tensor y = at::empty({count, kSize});
      all->fp32.attend(data<float>(q[first]), count, limits.data() + first, data<float>(keys),
                       data<float>(values), kSize, work.data(), data<float>(y));
      return y;
    };
    const at::Tensor together = attend(0, kQueries);
    for (int64_t i = 0; i < kQueries; ++i) {
      EXPECT_TRUE(at::equal(attend(i, 1)[0], together[i])) << i;
      const int64_t seen = limits[static_cast<size_t>(i)];
      const at::Tensor weights =
          at::softmax(at::mv(keys.narrow(0, 0, seen), q[i]).to(at::kDouble), 0);
      const at::Tensor wanted = at::mv(values.narrow(0, 0, seen).t().to(at::kDouble), weights);
      EXPECT_LE(((together[i] - wanted).norm() / wanted.norm()).item<double>(), 2e-6);
    }
  }
}

// However many heads a group has.
TEST(CacheAttention, GivesEachTokenItsBits) {
  at::manual_seed(4);
  const at::Tensor q = at::randn({4, 1, 32, 16}), keys = at::randn({1, 1, 60, 16}),
                   values = at::randn({1, 1, 60, 16});
  ASSERT_TRUE(takes_cache_attention(q, {4}));
  const at::Tensor together = cache_attention(q, keys, values, {50}, {4});
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(
        at::equal(cache_attention(q.narrow(0, i, 1), keys, values, {50 + i}, {1})[0], together[i]));
  }
}

// A prompt's part is for libtorch's products.
TEST(CacheAttention, LeavesManyTokens) {
  EXPECT_FALSE(takes_cache_attention(at::zeros({17, 1, 4, 8}), {17}));
  EXPECT_TRUE(takes_cache_attention(at::zeros({16, 1, 4, 8}), {16}));
  at::Tensor trains = at::zeros({1, 1, 4, 8}).requires_grad_(true);
  EXPECT_FALSE(takes_cache_attention(trains, {1}));
}

}  // namespace
}  // namespace trestle
