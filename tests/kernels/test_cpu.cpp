// Which path bf16 takes, by what the processor has and what oneDNN is held to.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

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

// Held to what Linux says of an x86 processor.
TEST(CpuFacts, InstructionsAreTheProcessors) {
  std::ifstream file("/proc/cpuinfo");
  std::string line, flags;
  while (flags.empty() && std::getline(file, line)) {
    if (line.starts_with("flags")) flags = line.substr(line.find(':') + 1) + " ";
  }
  if (flags.empty()) GTEST_SKIP() << "/proc/cpuinfo has no flags here";
  const std::string told = ", " + cpu_facts().instructions + ",";
  for (const auto& [flag, words] :
       std::map<std::string, std::string>{{"avx2", "AVX2"},
                                          {"fma", "FMA"},
                                          {"f16c", "F16C"},
                                          {"avx512f", "AVX-512"},
                                          {"avx512_bf16", "AVX-512 BF16"},
                                          {"amx_bf16", "AMX BF16"}}) {
    EXPECT_EQ(told.find(", " + words + ",") != std::string::npos,
              flags.find(" " + flag + " ") != std::string::npos)
        << words << ": " << told;
  }
  EXPECT_EQ(told.find("NEON"), std::string::npos);
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
