// FP8 weights against an independent decoder: the bits of e4m3 and the rounding to bf16 written out
// by hand.
#include <bit>

#include "formats/fp8.h"
#include "hf_testing.h"

namespace trestle {
namespace {

using namespace trestle::testing;

// OCP E4M3: sign, 4 exponent bits biased by 7, 3 mantissa bits; no infinity, S.1111.111 is NaN.
float e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                    : std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
  return code & 0x80 ? -magnitude : magnitude;
}

// Round half to even on the upper 16 bits.
uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

at::Tensor random_codes(int64_t rows, int64_t columns) {
  at::Tensor codes = at::randint(0, 256, {rows, columns}, at::kByte);
  return codes.masked_fill_(codes.bitwise_and(0x7f) == 0x7f, 0x3c);  // no NaN
}

// `scale_at(row, column)` says which scale belongs to an element.
template <class ScaleAt>
void expect_dequantized(const at::Tensor& codes, const at::Tensor& scale,
                        std::optional<Fp8Block> stated, const ScaleAt& scale_at) {
  const at::Tensor result = dequantize_fp8(codes.view(at::kFloat8_e4m3fn), scale, stated, "here");
  ASSERT_EQ(result.scalar_type(), at::kBFloat16);
  ASSERT_EQ(result.sizes(), codes.sizes());
  const at::Tensor bits_OI = result.view(at::kUInt16);
  const at::Tensor codes_OI = codes.contiguous();
  const int64_t columns = codes.size(1);
  int64_t wrong = 0;
  for (int64_t r = 0; r < codes.size(0); ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const float expected =
          e4m3(codes_OI.const_data_ptr<uint8_t>()[r * columns + c]) * scale_at(r, c);
      if (bits_OI.const_data_ptr<uint16_t>()[r * columns + c] != bf16_bits(expected)) ++wrong;
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << codes.numel();
}

// users' pain point 1: FP8 checkpoints that do not load.
TEST(Fp8, EveryCodeTimesAScalar) {
  const at::Tensor codes = at::arange(256, at::kInt).to(at::kByte).view({16, 16});
  for (const at::Tensor& scale : {at::scalar_tensor(0.0137f), at::full({1}, 0.0137f)}) {
    const at::Tensor result = dequantize_fp8(codes.view(at::kFloat8_e4m3fn), scale, {}, "here");
    const at::Tensor flat = result.view(at::kUInt16).flatten();
    for (int code = 0; code < 256; ++code) {
      if ((code & 0x7f) == 0x7f) {
        EXPECT_TRUE(std::isnan(result.flatten()[code].item<float>()));
      } else {
        EXPECT_EQ(flat.const_data_ptr<uint16_t>()[code],
                  bf16_bits(e4m3(static_cast<uint8_t>(code)) * 0.0137f))
            << code;
      }
    }
  }
}

// users' pain point 1: FP8 checkpoints that do not load.
TEST(Fp8, AScalePerRow) {
  const at::Tensor codes = random_codes(50, 30);
  const at::Tensor scale = at::rand({50}) + 0.01;
  const auto scale_at = [&](int64_t r, int64_t) { return scale.const_data_ptr<float>()[r]; };
  expect_dequantized(codes, scale, {}, scale_at);
  expect_dequantized(codes, scale.view({50, 1}), {}, scale_at);
  // A stated block size does not hide a row scale.
  expect_dequantized(codes, scale.view({50, 1}), Fp8Block{128, 128}, scale_at);
}

TEST(Fp8, AScalePerBlockWithRaggedEdges) {
  const at::Tensor codes = random_codes(300, 200);
  const at::Tensor scale = at::rand({3, 2}) + 0.01;
  const auto scale_at = [&](int64_t r, int64_t c) {
    return scale.const_data_ptr<float>()[r / 128 * 2 + c / 128];
  };
  expect_dequantized(codes, scale, Fp8Block{128, 128}, scale_at);
  expect_dequantized(codes, scale, {}, scale_at);  // 128 is the default

  const at::Tensor odd = at::rand({5, 3}) + 0.01;
  expect_dequantized(codes, odd, Fp8Block{64, 80}, [&](int64_t r, int64_t c) {
    return odd.const_data_ptr<float>()[r / 64 * 3 + c / 80];
  });
  // Unstated and not 128: the blocks that divide the weight evenly.
  const at::Tensor even = at::rand({6, 4}) + 0.01;
  expect_dequantized(codes, even, {}, [&](int64_t r, int64_t c) {
    return even.const_data_ptr<float>()[r / 50 * 4 + c / 50];
  });
}

TEST(Fp8, ScalesOfOtherTypesAndManyStrips) {
  // 3000 x 2000 spans two strips of the loop.
  const at::Tensor codes = random_codes(3000, 2000);
  const at::Tensor scale = (at::rand({3000}) + 0.01).to(at::kBFloat16);
  const at::Tensor as_float = scale.to(at::kFloat);
  expect_dequantized(codes, scale, {},
                     [&](int64_t r, int64_t) { return as_float.const_data_ptr<float>()[r]; });
}

TEST(Fp8, TrailingSizesOfAConvolutionCountAsColumns) {
  const at::Tensor codes = random_codes(4, 3 * 2 * 2);
  const at::Tensor scale = at::rand({4}) + 0.01;
  const at::Tensor flat = dequantize_fp8(codes.view(at::kFloat8_e4m3fn), scale, {}, "here");
  const at::Tensor conv =
      dequantize_fp8(codes.view({4, 3, 2, 2}).view(at::kFloat8_e4m3fn), scale, {}, "here");
  EXPECT_EQ(conv.sizes(), at::IntArrayRef({4, 3, 2, 2}));
  EXPECT_TRUE(same_bits(conv.view({4, 12}), flat));
}

TEST(Fp8, RefusesScalesThatFitNothing) {
  const at::Tensor weight = random_codes(300, 200).view(at::kFloat8_e4m3fn);
  const auto refuse = [&](const at::Tensor& scale, std::optional<Fp8Block> stated) {
    return error_of([&] { dequantize_fp8(weight, scale, stated, "F: tensor W"); });
  };
  expect_mentions(refuse(at::ones({299}), {}), {"F: tensor W", "[299]", "[300, 200]"});
  expect_mentions(refuse(at::ones({7, 3}), {}), {"[7, 3]"});
  expect_mentions(refuse(at::ones({2, 3, 1}), {}), {"[2, 3, 1]"});
  expect_mentions(refuse(at::ones({0}), {}), {"[0]"});
  // Even blocks would fit, but the config states others.
  expect_mentions(refuse(at::ones({6, 4}), Fp8Block{128, 128}), {"[6, 4]", "128 x 128"});
  expect_mentions(refuse(at::ones({1}, at::kInt), {}), {"I32 [1]"});
  expect_mentions(refuse(at::full({1}, INFINITY), {}), {"not finite"});
  EXPECT_REFUSED(dequantize_fp8(at::ones({2, 2}), at::ones({1}), {}, "F: tensor W"), "F32 [2, 2]");
}

}  // namespace
}  // namespace trestle
