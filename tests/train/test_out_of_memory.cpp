// A run that memory does not suffice for says in one line what was asked, who holds the rest and
// what would take less, and its last checkpoint stands.
#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include "base/heap.h"
#include "errors.h"
#include "metrics/out_of_memory.h"
#include "model/ministral3.h"
#include "train/testing.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;

// As c10/cuda/CUDACachingAllocator.cpp puts it.
constexpr const char* kOfCard =
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of "
    "which 1.02 GiB is free. Process 1 has 78.10 GiB memory in use. Of the allocated memory 70.00 "
    "GiB is allocated by PyTorch, and 1.00 GiB is reserved by PyTorch but unallocated.";

TEST(MemoryAsked, IsReadOfWhatACardAndTheCpuSay) {
  EXPECT_EQ(memory_asked(kOfCard), "2.00 GiB were asked for, of 79.15 GiB 1.02 GiB are free");
  expect_mentions(memory_asked("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"),
                  {"does not say how much"});
  EXPECT_EQ(memory_asked("shape '[2]' is invalid"), std::nullopt);
  EXPECT_EQ(memory_asked(""), std::nullopt);
  // What this libtorch itself throws.
  std::optional<std::string> asked;
  try {
    at::empty({int64_t{1} << 50}, at::kByte);
  } catch (const c10::Error& error) {
    asked = memory_asked(error.what_without_backtrace());
  }
  expect_mentions(asked, {"1125899906842624 bytes were asked for"});
}

TEST(OutOfMemoryLine, NamesTheKeysThatAreNotYetAtTheirLeast) {
  TrainConfig config;
  config.train.micro_batch_size = 4;
  config.peft.scheme = "lora";
  config.peft.base_bits = "16";
  const MemoryUse use{.weights = 6'900'000'000,
                      .optimizer = 500'000'000,
                      .gradients = 250'000'000,
                      .peak = 77'650'000'000};
  expect_mentions(
      out_of_memory_line("2.00 GiB were asked for", use, config),
      {"2.00 GiB were asked for", "weights hold 6.90 GB", "optimizer 0.50 GB", "gradients 0.25 GB",
       "activations up to 70.00 GB",
       "model.recompute_granularity=full (now " + config.model.recompute_granularity + ")",
       "train.micro_batch_size below 4", "model.seq_length below 4096",
       "peft.base_bits=4 (now 16)"});
  config.train.micro_batch_size = 1;
  config.model.recompute_granularity = "full";
  config.peft.base_bits = "4";
  const std::string least = out_of_memory_line("x", {}, config);
  for (const char* key : {"recompute", "micro_batch_size", "base_bits", "activations", "scheme"}) {
    EXPECT_EQ(least.find(key), std::string::npos) << least;
  }
  expect_mentions(least, {"model.seq_length"});
  expect_mentions(opening_out_of_memory_line("x", {}, config), {"a smaller model"});
  config.peft.scheme = "";
  expect_mentions(out_of_memory_line("x", {}, config), {"peft.scheme=lora"});
}

class OutOfMemory : public testing::RunTest {
 protected:
  TrainConfig config_of(const std::string& name, const std::string& scheme) const {
    TrainConfig config = this->config(name, scheme);
    config.model.params_dtype = "float32";
    config.dataset.num_workers = 0;
    config.checkpoint.save_interval = 2;
    return config;
  }
};

TEST_F(OutOfMemory, WhoHoldsWhatIsCountedOnce) {
  TrainConfig config = config_of("run", "lora");
  config.peft.base_bits = "4";
  Trainer trainer(config);
  trainer.step();
  const Ministral3& model = trainer.model();
  int64_t adapters = 0, dense = 0;
  for (const auto& entry : model.named_parameters()) {
    const at::Tensor& parameter = entry.value();
    if (parameter.requires_grad()) adapters += parameter.numel() * 4;
    if (!parameter.is_meta()) dense += parameter.numel() * 4;
  }
  AdamW::NamedTensors trained;
  for (const auto& entry : model.named_parameters()) {
    if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
  }
  const MemoryUse use = memory_use(model, AdamW(trained, {}).state());
  // fp32 weights are their own masters; codes and scales count with the weights.
  EXPECT_EQ(use.optimizer, 2 * adapters);
  EXPECT_EQ(use.gradients, adapters);
  EXPECT_GT(use.weights, dense);
  EXPECT_FALSE(use.peak);
}

TEST_F(OutOfMemory, TheLastCheckpointStands) {
  const TrainConfig config = config_of("run", "lora");
  std::optional<std::string> said;
  {
    Trainer trainer(config);
    said = error_of<MachineError>([&] {
      trainer.run([](const StepMetrics& metrics) {
        if (metrics.step == 3) throw c10::OutOfMemoryError({"", "", 0}, kOfCard);
      });
    });
  }
  expect_mentions(said, {"step 3", "2.00 GiB were asked for", "weights hold", "model.seq_length",
                         "the last checkpoint stands"});
  // Its bits are those of a run that nothing happened to.
  TrainConfig whole = config;
  whole.checkpoint.save += "-whole";
  const std::vector<double> wanted = losses(whole);
  TrainConfig resumed = config;
  resumed.checkpoint.load = config.checkpoint.save;
  EXPECT_EQ(losses(resumed), std::vector<double>(wanted.begin() + 2, wanted.end()));
}

// The CPU's allocator, which from `most` bytes at once on says that there are none, as a card does.
class FullMemory : public c10::Allocator {
 public:
  explicit FullMemory(size_t most) : most_(most) { c10::SetCPUAllocator(this, 1); }
  ~FullMemory() override { c10::SetCPUAllocator(before_, 1); }
  FullMemory(const FullMemory&) = delete;
  FullMemory& operator=(const FullMemory&) = delete;

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes >= most_) throw c10::OutOfMemoryError({"", "", 0}, kOfCard);
    return before_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return before_->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    before_->copy_data(to, from, bytes);
  }

 private:
  size_t most_;
  c10::Allocator* before_ = c10::GetCPUAllocator();
};

TEST_F(OutOfMemory, WhileARunIsOpenedNamesTheKeysOfWeights) {
  const TrainConfig config = config_of("opened", "");
  std::optional<std::string> said;
  {
    const FullMemory full(50'000);  // the embedding alone takes more
    said = error_of<MachineError>([&] { Trainer trainer(config); });
  }
  expect_mentions(said, {"while weights and optimizer were opened", "2.00 GiB were asked for",
                         "weights hold", "peft.scheme=lora", "model.params_dtype=bfloat16"});
  EXPECT_EQ(said->find("recompute"), std::string::npos) << *said;
  EXPECT_FALSE(std::filesystem::exists(config.checkpoint.save));
}

TEST_F(OutOfMemory, AnotherErrorOfLibtorchStaysWhatItIs) {
  Trainer trainer(config_of("run", "lora"));
  EXPECT_THROW(trainer.run([](const StepMetrics&) { TORCH_CHECK(false, "a bug"); }), c10::Error);
}

}  // namespace
}  // namespace trestle
