// Several samples in one row: the loss and gradients of each alone, runs that differ in nothing but
// how many forwards they take, exact resume.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "flash_on_cpu.h"
#include "golden.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Packed : public testing::RunOfAllKinds {
 protected:
  TrainConfig config(const std::string& name, const std::string& scheme = "") const {
    TrainConfig config = RunOfAllKinds::config(name, scheme);
    config.dataset.image_max_edge = 112;
    config.train.global_batch_size = 8;
    return config;
  }
};

std::map<std::string, at::Tensor> gradients(const Ministral3& model) {
  std::map<std::string, at::Tensor> gradients;
  for (const auto& entry : model.named_parameters()) {
    at::Tensor& gradient = entry.value().mutable_grad();
    if (gradient.defined()) gradients[entry.key()] = gradient.clone();
    gradient.reset();
  }
  return gradients;
}

class PackedSamples : public Packed {
 protected:
  void SetUp() override {
    Packed::SetUp();
    model_ = load_model(OpenCheckpoint(kModel), {at::kFloat, at::kCPU});
    const Processor processor(kModel, {.max_edge = 112});
    const auto dataset = make_dataset("jsonl", directory_ / "data.jsonl", "");
    for (int64_t row = 0; row < dataset->size(); ++row) {
      samples_.push_back(processor.process(dataset->row(row), Ending::kSample));
    }
    for (const Sample& sample : samples_) {
      const Batch batch = collate({sample});
      const at::Tensor loss = model_->loss_sum(batch.input, batch.labels_T).first;
      alone_ += loss.item<double>();
      loss.backward();
    }
    wanted_ = gradients(*model_);
  }

  void expect_the_same_packed() {
    const Batch batch = collate(samples_);
    ASSERT_GT(batch.input.packing.runs().size(), 1u);  // lengths differ enough to attend apart
    const auto [loss, targets] = model_->loss_sum(batch.input, batch.labels_T);
    EXPECT_NEAR(loss.item<double>() / static_cast<double>(targets),
                alone_ / static_cast<double>(targets), 1e-5);
    loss.backward();
    const auto got = gradients(*model_);
    ASSERT_EQ(got.size(), wanted_.size());
    for (const auto& [name, gradient] : wanted_) {
      EXPECT_LT(testing::relative_error(got.at(name), gradient), 1e-4) << name;
    }
  }

  std::shared_ptr<Ministral3> model_;
  std::vector<Sample> samples_;
  double alone_ = 0;
  std::map<std::string, at::Tensor> wanted_;
};

// users' pain point 15: no packing with pictures.
TEST_F(PackedSamples, LossAndGradientsAreThoseOfEachSampleAlone) { expect_the_same_packed(); }

// The way of a card.
TEST_F(PackedSamples, SoAreTheyByAttentionOfPackedRows) {
  const testing::FlashOnCpu flash;
  expect_the_same_packed();
  const auto layers = static_cast<int>(model_->language_model().num_layers());
  EXPECT_GT(flash.counts().forwards, layers);  // each of the pictures has its own
  EXPECT_EQ(flash.counts().backwards, flash.counts().forwards);
}

// users' pain point 18: rows with and without pictures.
TEST_F(Packed, RunsDifferInTheNumberOfForwardsAlone) {
  TrainConfig packed = config("packed");
  packed.dataset.pack_sequences_in_batch = true;
  const auto alone = run(config("alone")), together = run(packed);
  ASSERT_EQ(together.size(), alone.size());
  for (size_t i = 0; i < alone.size(); ++i) {
    EXPECT_NEAR(together[i].loss, alone[i].loss, 1e-4) << "step " << i + 1;
    EXPECT_NEAR(together[i].grad_norm, alone[i].grad_norm, 1e-3 * alone[i].grad_norm);
    EXPECT_EQ(together[i].tokens, alone[i].tokens);
    EXPECT_EQ(together[i].target_tokens, alone[i].target_tokens);
    EXPECT_EQ(together[i].images, alone[i].images);
    EXPECT_EQ(alone[i].forwards, 8);
    EXPECT_LT(together[i].forwards, 6);
  }
}

TEST_F(Packed, AttentionOfPackedRowsIsDeterministicWhereTheRunAsksForIt) {
  if (!testing::test_device().is_cpu()) GTEST_SKIP() << "stands in for a card";
  TrainConfig packed = config("packed", "lora");
  packed.dataset.pack_sequences_in_batch = true;
  packed.train.train_iters = 2;
  packed.scheduler.lr_warmup_iters = 1;
  const auto padded = losses(packed);
  for (const bool deterministic : {false, true}) {
    packed.train.deterministic = deterministic;
    packed.checkpoint.save += "-flash";
    const testing::FlashOnCpu flash;
    const auto got = losses(packed);
    ASSERT_EQ(got.size(), padded.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], padded[i], 1e-4);
    EXPECT_GT(flash.counts().backwards, 0);
    EXPECT_EQ(flash.counts().deterministic, deterministic ? flash.counts().backwards : 0);
  }
}

// users' pain point 24: resuming.
TEST_F(Packed, ResumesToTheBit) {
  TrainConfig lora = config("lora", "lora");
  lora.dataset.pack_sequences_in_batch = true;
  lora.model.params_dtype = "bf16";
  lora.peft.dropout = 0.1;
  const std::vector<double> whole = losses(lora);
  lora.checkpoint.save += "-resumed";
  lora.train.exit_interval = 3;
  std::vector<double> parts = losses(lora);
  lora.train.exit_interval.reset();
  lora.checkpoint.load = lora.checkpoint.save;
  lora.dataset.num_workers = 3;  // the threads settle nothing
  for (const double loss : losses(lora)) parts.push_back(loss);
  EXPECT_EQ(parts, whole);
}

}  // namespace
}  // namespace trestle
