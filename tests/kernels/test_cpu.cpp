// Which path bf16 takes, by what the processor has and what oneDNN is held to.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "cpu/cpu.h"

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

// The kernel's own words for what the processor has, and its name.
struct KernelsWords {
  std::set<std::string> instructions;
  std::string model;

  KernelsWords() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
      const size_t colon = line.find(':');
      if (colon == std::string::npos) continue;
      std::istringstream words(line.substr(colon + 1));
      if (line.starts_with("model name") && model.empty()) model = words.str();
      if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
      for (std::string word; words >> word;) instructions.insert(word);
    }
  }
};

TEST(CpuFacts, InstructionsAreThoseThatTheKernelLists) {
  const KernelsWords kernel;
  ASSERT_FALSE(kernel.instructions.empty());
  const std::string told = ", " + cpu_facts().instructions + ",";
  for (const auto& [words, flag] :
       {std::pair("AVX2", "avx2"), std::pair("FMA", "fma"), std::pair("F16C", "f16c"),
        std::pair("AVX-512", "avx512f"), std::pair("AVX-512 BF16", "avx512_bf16"),
        std::pair("AMX BF16", "amx_bf16"), std::pair("NEON", "asimd"), std::pair("SVE", "sve")}) {
    EXPECT_EQ(told.find(fmt::format(", {},", words)) != std::string::npos,
              kernel.instructions.contains(flag))
        << words << " in" << told;
  }
}

TEST(CpuFacts, NameAndThreadsAreThisProcesss) {
  // Without the trademarks: "Intel Xeon" of "Intel(R) Xeon(R) Processor".
  const std::string name = cpu_facts().name;
  ASSERT_FALSE(name.empty());
  const std::string model = KernelsWords().model;
  if (!model.empty()) EXPECT_NE(model.find(name.substr(0, name.find(' '))), std::string::npos);
  const int before = at::get_num_threads();
  for (const int threads : {2, 1}) {
    at::set_num_threads(threads);
    EXPECT_EQ(cpu_facts().threads, threads);
  }
  at::set_num_threads(before);
}

TEST(CpuFacts, LimitIsOneDnnsVariable) {
  const auto with = [](const char* newer, const char* older) {
    newer != nullptr ? setenv("ONEDNN_MAX_CPU_ISA", newer, 1) : unsetenv("ONEDNN_MAX_CPU_ISA");
    older != nullptr ? setenv("DNNL_MAX_CPU_ISA", older, 1) : unsetenv("DNNL_MAX_CPU_ISA");
    return cpu_facts().limit;
  };
  bf16_path();  // is settled by what the process was started with
  const char *newer = std::getenv("ONEDNN_MAX_CPU_ISA"), *older = std::getenv("DNNL_MAX_CPU_ISA");
  const std::string newer_before = newer == nullptr ? "" : newer;
  const std::string older_before = older == nullptr ? "" : older;
  EXPECT_EQ(with("AVX2", nullptr), "AVX2");
  EXPECT_EQ(with("AVX2", "AVX512_CORE"), "AVX2");
  EXPECT_EQ(with(nullptr, "AVX512_CORE"), "AVX512_CORE");
  EXPECT_EQ(with("", "AVX512_CORE"), "AVX512_CORE");
  EXPECT_EQ(with(nullptr, nullptr), "");
  with(newer_before.empty() ? nullptr : newer_before.c_str(),
       older_before.empty() ? nullptr : older_before.c_str());
}

TEST(Bf16Path, IsToldWithItsReason) {
  const KernelsWords kernel;
  const bool has_bf16 = kernel.instructions.contains("avx512_bf16") ||
                        kernel.instructions.contains("amx_bf16") ||
                        kernel.instructions.contains("bf16");
  {
    const ForcedBf16Path native(Bf16Path::kNative);
    EXPECT_EQ(describe_bf16_path(), "bf16 products: the processor's own instructions");
  }
  const ForcedBf16Path widened(Bf16Path::kWidened);
  const std::string said = describe_bf16_path();
  EXPECT_TRUE(said.starts_with("bf16 products: in fp32, the weight widened tile by tile ("))
      << said;
  EXPECT_EQ(said.find("the processor has none for bf16") == std::string::npos, has_bf16) << said;
}

}  // namespace
}  // namespace trestle
