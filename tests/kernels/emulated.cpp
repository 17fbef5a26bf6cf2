#include "kernels/emulated.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <mutex>
#include <sstream>
#include <vector>

#include "kernels/cuda_kernels.h"

namespace trestle::testing {

namespace {

using cuda::Kernels;

// As many as count<>() is called for below.
constexpr size_t kKernels = 18;
static_assert(sizeof(Kernels) == (kKernels + 1) * sizeof(void*), "and describe()");

std::mutex running;                      // the emulator runs one kernel at a time
std::map<std::string, int64_t*> counts;  // since the program began
std::map<std::string, int64_t> told;     // of them by calls()

template <auto kMember, class Launcher>
struct Counted;
template <auto kMember, class... Given>
struct Counted<kMember, int (*)(Given...)> {
  static inline int64_t count = 0;
  static int call(Given... given) {
    const std::lock_guard lock(running);
    ++count;
    return (cuda::all_kernels().*kMember)(given...);
  }
};

template <auto kMember>
void count(Kernels& kernels, const std::string& name) {
  using OfMember = Counted<kMember, std::remove_reference_t<decltype(kernels.*kMember)>>;
  kernels.*kMember = OfMember::call;
  counts[name] = &OfMember::count;
}

Kernels counted() {
  Kernels kernels = cuda::all_kernels();
  count<&Kernels::adamw>(kernels, "adamw");
  count<&Kernels::cross_entropy>(kernels, "cross_entropy");
  count<&Kernels::decode_attention>(kernels, "decode_attention");
  count<&Kernels::dequantize_nf4>(kernels, "dequantize_nf4");
  count<&Kernels::dequantize_int8>(kernels, "dequantize_int8");
  count<&Kernels::dequantize_fp8>(kernels, "dequantize_fp8");
  count<&Kernels::dora_norms>(kernels, "dora_norms");
  count<&Kernels::gradient_norm>(kernels, "gradient_norm");
  count<&Kernels::rms_norm_forward>(kernels, "rms_norm_forward");
  count<&Kernels::rms_norm_backward>(kernels, "rms_norm_backward");
  count<&Kernels::rope>(kernels, "rope");
  count<&Kernels::row_product>(kernels, "row_product");
  count<&Kernels::row_product_nf4>(kernels, "row_product_nf4");
  count<&Kernels::row_product_int8>(kernels, "row_product_int8");
  count<&Kernels::row_product_fp8>(kernels, "row_product_fp8");
  count<&Kernels::sample>(kernels, "sample");
  count<&Kernels::swiglu_forward>(kernels, "swiglu_forward");
  count<&Kernels::swiglu_backward>(kernels, "swiglu_backward");
  return kernels;
}

// The emulator's, or those of a card, as this program is linked.
const Kernels& counted_kernels() {
  static const Kernels kernels = counted();
  return kernels;
}

bool is_installed() { return kernels_for(c10::Device(c10::kCPU)) != nullptr; }

// Of a whole test program.
class Installed : public ::testing::Environment {
 public:
  explicit Installed(const std::string& names) {
    std::istringstream list(names);
    for (std::string name; std::getline(list, name, ',');) wanted_.push_back(name);
  }
  void SetUp() override {
    const char* device = std::getenv("TRESTLE_TEST_DEVICE");
    const bool on_card = device != nullptr && std::string_view(device).starts_with("cuda");
    install_kernels(&counted_kernels(), on_card ? c10::kCUDA : c10::kCPU);
    ASSERT_EQ(counts.size(), kKernels);
  }
  void TearDown() override {
    for (const std::string& name : wanted_) {
      ASSERT_TRUE(counts.contains(name)) << name << " is no kernel";
      EXPECT_GT(*counts[name], 0) << name << " was called by none of these tests";
      printf("%s: %ld calls\n", name.c_str(), *counts[name]);
    }
  }

 private:
  std::vector<std::string> wanted_;
};

[[maybe_unused]] const ::testing::Environment* const kAsked = []() -> ::testing::Environment* {
  const char* names = std::getenv("TRESTLE_TEST_KERNELS");
  return names == nullptr ? nullptr : ::testing::AddGlobalTestEnvironment(new Installed(names));
}();

}  // namespace

EmulatedKernels::EmulatedKernels() : installed_before_(is_installed()) {
  install_kernels(&counted_kernels(), c10::kCPU);
  calls();
}

EmulatedKernels::~EmulatedKernels() {
  if (!installed_before_) install_kernels(nullptr, c10::kCPU);
}

std::map<std::string, int64_t> EmulatedKernels::calls() {
  std::map<std::string, int64_t> result;
  for (const auto& [name, count] : counts) {
    const int64_t since = *count - std::exchange(told[name], *count);
    if (since > 0) result[name] = since;
  }
  return result;
}

}  // namespace trestle::testing
