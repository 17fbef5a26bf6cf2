// Where a model is to be, as people ask for it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "errors.h"
#include "kernels/device.h"

namespace trestle {
namespace {

TEST(Device, AutoIsTheFirstCardWhereThereIsOne) {
  EXPECT_EQ(chosen_device("auto", "", {.built = true, .count = 2}), at::Device("cuda:0"));
  EXPECT_EQ(chosen_device("auto", "", {.built = true, .count = 0}), at::Device("cpu"));
  EXPECT_EQ(chosen_device("auto", "", {.built = false, .count = 0}), at::Device("cpu"));
  EXPECT_EQ(chosen_device("cpu", "", {.built = true, .count = 2}), at::Device("cpu"));
  EXPECT_EQ(chosen_device("cuda", "", {.built = true, .count = 2}), at::Device("cuda:0"));
  EXPECT_EQ(chosen_device("cuda:1", "", {.built = true, .count = 2}), at::Device("cuda:1"));
}

TEST(Device, ACardThatIsNotThereIsRefusedWithBothValues) {
  EXPECT_REFUSED(chosen_device("cuda:7", "--device cuda:7", {.built = true, .count = 2}),
                 "--device cuda:7", "2 cards", "cuda:0 to cuda:1");
  EXPECT_REFUSED(chosen_device("cuda:1", "--device cuda:1", {.built = true, .count = 1}),
                 "--device cuda:1", "1 card is", "use cuda:0");
  EXPECT_REFUSED(chosen_device("cuda", "train.device=cuda", {.built = true, .count = 0}),
                 "train.device=cuda", "no card is there");
  EXPECT_REFUSED(chosen_device("cuda", "--device cuda", {.built = false, .count = 0}),
                 "--device cuda", "this build has no CUDA", "make cuda", "docs/gpu.md");
}

TEST(Device, OtherNamesAreRefused) {
  for (const char* name :
       {"", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda:01", "cuda:1x", "cuda:1:2",
        "cuda 1", "cpu:0", "auto:0", "meta", "cuda:64", "cuda:99999999999999999999"}) {
    EXPECT_FALSE(is_device_name(name)) << name;
    EXPECT_REFUSED(chosen_device(name, "--device", {.built = true, .count = 100}), "--device",
                   "auto, cpu, cuda or cuda:N");
  }
}

TEST(Device, TheCpuHasNoCardsMemoryAndNothingToTell) {
  EXPECT_FALSE(card_memory(at::kCPU));
  EXPECT_EQ(device_name(at::kCPU), "the CPU");
  EXPECT_EQ(describe_device(at::kCPU, "cpu"), "");
}

TEST(Device, DeterministicKernelsLastAsLongAsTheyAreAskedFor) {
  const at::Context& context = at::globalContext();
  ASSERT_FALSE(context.deterministicAlgorithms());
  {
    const DeterministicKernels deterministic;
    EXPECT_TRUE(context.deterministicAlgorithms());
    EXPECT_TRUE(context.deterministicCuDNN());
    EXPECT_FALSE(context.deterministicFillUninitializedMemory());
    EXPECT_STREQ(std::getenv("CUBLAS_WORKSPACE_CONFIG"), ":4096:8");
  }
  EXPECT_FALSE(context.deterministicAlgorithms());
  EXPECT_TRUE(context.deterministicFillUninitializedMemory());
}

}  // namespace
}  // namespace trestle
