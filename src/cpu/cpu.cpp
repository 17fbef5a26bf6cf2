#include "cpu/cpu.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/ivalue.h>
#include <ATen/cpu/Utils.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle {

namespace {

// libtorch's names of what computes in bf16, and people's.
constexpr std::array<std::pair<const char*, const char*>, 3> kBf16 = {
    {{"avx512_bf16", "AVX-512 BF16"}, {"amx_bf16", "AMX BF16"}, {"bf16", "Arm BF16"}}};
constexpr std::array<std::pair<const char*, const char*>, 6> kVectors = {{{"avx2", "AVX2"},
                                                                          {"fma3", "FMA"},
                                                                          {"f16c", "F16C"},
                                                                          {"avx512_f", "AVX-512"},
                                                                          {"neon", "NEON"},
                                                                          {"sve", "SVE"}}};
// The values of ONEDNN_MAX_CPU_ISA that leave no instructions for bf16.
constexpr std::array<std::string_view, 7> kBelowBf16 = {
    "sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"};

const std::unordered_map<std::string, c10::IValue>& capabilities() {
  static const auto all = at::cpu::get_cpu_capabilities();
  return all;
}

bool has(const char* instructions) {
  const auto found = capabilities().find(instructions);
  return found != capabilities().end() && found->second.isBool() && found->second.toBool();
}

template <class Names>
void append_those_here(const Names& names, std::vector<std::string>& to) {
  for (const auto& [name, words] : names) {
    if (has(name)) to.emplace_back(words);
  }
}

bool has_bf16() {
  return std::ranges::any_of(kBf16, [](const auto& names) { return has(names.first); });
}

// oneDNN takes the first of these that is set.
std::string onednn_limit() {
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "";
}

std::atomic<Bf16Path>& path_of_process() {
  static std::atomic<Bf16Path> path = bf16_path_of(has_bf16(), onednn_limit());
  return path;
}

}  // namespace

Bf16Path bf16_path_of(bool has_bf16, const std::string& onednn_limit) {
  std::string limit = onednn_limit;
  std::ranges::transform(limit, limit.begin(), [](unsigned char c) { return std::tolower(c); });
  const bool held = std::ranges::find(kBelowBf16, limit) != kBelowBf16.end();
  return has_bf16 && !held ? Bf16Path::kNative : Bf16Path::kWidened;
}

Bf16Path bf16_path() { return path_of_process().load(std::memory_order_relaxed); }

ForcedBf16Path::ForcedBf16Path(Bf16Path path) : before_(path_of_process().exchange(path)) {}

ForcedBf16Path::~ForcedBf16Path() { path_of_process() = before_; }

CpuFacts cpu_facts() {
  std::vector<std::string> instructions;
  append_those_here(kVectors, instructions);
  append_those_here(kBf16, instructions);
  const auto name = capabilities().find("cpu_name");
  return {name == capabilities().end() ? "unknown" : name->second.toStringRef(),
          fmt::format("{}", fmt::join(instructions, ", ")), onednn_limit(),
          at::get_cpu_capability(), at::get_num_threads()};
}

std::string describe_bf16_path() {
  if (bf16_path() == Bf16Path::kNative) return "bf16 products: the processor's own instructions";
  const std::string why = has_bf16() ? "ONEDNN_MAX_CPU_ISA=" + onednn_limit()
                                     : std::string("the processor has none for bf16");
  return "bf16 products: in fp32, the weight widened tile by tile (" + why + ")";
}

}  // namespace trestle
