// Which path bf16 takes, by what the processor has and what oneDNN is held to.
#include <gtest/gtest.h>

#include "kernels/cpu.h"

namespace trestle {
namespace {

TEST(Bf16PathOf, IsNativeWithInstructionsThatOneDnnMayUse) {
  for (const char* limit : {"", "DEFAULT", "AVX512_CORE_BF16", "avx512_core_amx", "AVX10_1_512"}) {
    EXPECT_EQ(bf16_path_of(true, limit), Bf16Path::kNative) << limit;
  }
}

TEST(Bf16PathOf, IsWidenedWithoutOrBelowThem) {
  EXPECT_EQ(bf16_path_of(false, ""), Bf16Path::kWidened);
  EXPECT_EQ(bf16_path_of(false, "AVX512_CORE_BF16"), Bf16Path::kWidened);
  for (const char* limit :
       {"SSE41", "AVX", "AVX2", "avx2", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}) {
    EXPECT_EQ(bf16_path_of(true, limit), Bf16Path::kWidened) << limit;
  }
}

TEST(ForcedBf16Path, EndsWithItsScope) {
  const Bf16Path before = bf16_path();
  const Bf16Path other = before == Bf16Path::kNative ? Bf16Path::kWidened : Bf16Path::kNative;
  {
    const ForcedBf16Path forced(other);
    EXPECT_EQ(bf16_path(), other);
  }
  EXPECT_EQ(bf16_path(), before);
}

TEST(CpuFacts, IsToldWithItsPath) {
  const CpuFacts here = cpu_facts();
  EXPECT_FALSE(here.name.empty());
  EXPECT_FALSE(here.vectors.empty());
  EXPECT_GE(here.threads, 1);
  const ForcedBf16Path widened(Bf16Path::kWidened);
  EXPECT_NE(describe_bf16_path().find("fp32"), std::string::npos);
}

}  // namespace
}  // namespace trestle
