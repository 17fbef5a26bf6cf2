// Ranks that share the rows of a step out make the losses, gradients and weights of one rank. A
// rank is a thread here; test_rank_processes.py starts processes.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <mutex>

#include "errors.h"
#include "model/ministral3.h"
#include "parallel/world.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;

constexpr int64_t kSteps = 10;
constexpr double kNear = 1e-5;

using Tensors = std::map<std::string, at::Tensor>;

Tensors gradients_of(const Ministral3& model) {
  Tensors gradients;
  for (const auto& entry : model.named_parameters()) {
    if (entry.value().grad().defined()) gradients[entry.key()] = entry.value().grad().clone();
  }
  return gradients;
}

struct Made {
  std::vector<StepMetrics> steps;
  /// Of each step.
  std::vector<Tensors> gradients;
  Tensors weights;
};

Made make_steps(Trainer& trainer, int64_t steps = kSteps) {
  Made made;
  for (int64_t i = 0; i < steps; ++i) {
    made.steps.push_back(trainer.step());
    made.gradients.push_back(gradients_of(trainer.model()));
  }
  for (const auto& entry : trainer.model().named_parameters()) {
    made.weights[entry.key()] = entry.value().detach().clone();
  }
  return made;
}

/// What each rank has made.
std::vector<Made> steps_of_ranks(const TrainConfig& config, int64_t ranks, int64_t steps = kSteps) {
  std::vector<Made> all(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](const World& world) {
    Trainer trainer(config, {}, world);
    all[static_cast<size_t>(world.rank())] = make_steps(trainer, steps);
  });
  return all;
}

void expect_near(const Tensors& given, const Tensors& wanted, double bound,
                 const std::string& what) {
  ASSERT_EQ(given.size(), wanted.size()) << what;
  for (const auto& [name, tensor] : wanted) {
    ASSERT_TRUE(given.contains(name)) << what << " has no " << name;
    const double norm = tensor.norm().item<double>();
    EXPECT_LE((given.at(name) - tensor).norm().item<double>(), bound * norm + 1e-12)
        << what << ": " << name;
  }
}

void expect_same(const Made& given, const Made& wanted, int64_t ranks) {
  ASSERT_EQ(given.steps.size(), wanted.steps.size());
  for (size_t i = 0; i < wanted.steps.size(); ++i) {
    const StepMetrics &step = given.steps[i], &one = wanted.steps[i];
    const std::string what = fmt::format("{} ranks, step {}", ranks, i + 1);
    EXPECT_EQ(step.ranks, ranks);
    EXPECT_NEAR(step.loss, one.loss, kNear * one.loss) << what;
    EXPECT_NEAR(step.grad_norm, one.grad_norm, kNear * one.grad_norm) << what;
    EXPECT_EQ(step.target_tokens, one.target_tokens) << what;
    EXPECT_EQ(step.tokens, one.tokens) << what;
    EXPECT_EQ(step.images, one.images) << what;
    EXPECT_EQ(step.flops, one.flops) << what;
    EXPECT_GE(step.forwards, 1) << what;
  }
  for (size_t i = 0; i < wanted.gradients.size(); ++i) {
    expect_near(given.gradients[i], wanted.gradients[i], 10 * kNear,
                fmt::format("{} ranks, gradients of step {}", ranks, i + 1));
  }
}

class ManyRanks : public testing::RunOfAllKinds {
 protected:
  TrainConfig config(const std::string& name, const std::string& scheme = "") const {
    TrainConfig config = RunOfAllKinds::config(name, scheme);
    config.dataset.image_max_edge = 56;
    config.dataset.feature_cache_mb =
        0;  // which is each rank's own, and its work that of whoever has none
    config.train.global_batch_size = 6;
    config.train.micro_batch_size = 2;
    config.train.train_iters = kSteps;
    config.optimizer.lr = 1e-4;  // by which differences of rounding stay as small as they are
    return config;
  }

  void expect_as_one_rank(const TrainConfig& config) {
    Trainer one(config);
    const Made wanted = make_steps(one);
    for (const int64_t ranks : {2, 3, 4}) {
      for (const Made& made : steps_of_ranks(config, ranks)) expect_same(made, wanted, ranks);
    }
  }
};

// users' pain point 18: rows with and without pictures together.
TEST_F(ManyRanks, FullFineTuningIsThatOfOneRank) { expect_as_one_rank(config("sft")); }
TEST_F(ManyRanks, LoraIsThatOfOneRank) { expect_as_one_rank(config("lora", "lora")); }
TEST_F(ManyRanks, DoraIsThatOfOneRank) { expect_as_one_rank(config("dora", "dora")); }

TEST_F(ManyRanks, LoraOnFourBitsIsThatOfOneRank) {
  TrainConfig config = this->config("qlora", "lora");
  config.peft.base_bits = "4";
  expect_as_one_rank(config);
}

TEST_F(ManyRanks, PackedRowsAreThoseOfOneRank) {
  TrainConfig config = this->config("packed");
  config.dataset.pack_sequences_in_batch = true;
  expect_as_one_rank(config);
}

}  // namespace
}  // namespace trestle
