// Ranks that share the rows of a step out make the losses, gradients and weights of one rank. A
// rank is a thread here; test_rank_processes.py starts processes.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <mutex>

#include "kernels/optimizer.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"
#include "parallel/world.h"
#include "train/gradient_sync.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
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
    if (entry.value().is_meta()) continue;  // held in 4 bits
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
}

void expect_near(const std::vector<Tensors>& given, const std::vector<Tensors>& wanted,
                 int64_t ranks) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    expect_near(given[i], wanted[i], 10 * kNear,
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

  // Each rank with a whole optimizer, which has whole gradients, and with its share of one.
  static void expect_as_one_rank(TrainConfig config, const std::vector<int64_t>& numbers) {
    Trainer one(config);
    Made wanted = make_steps(one);
    for (const int64_t ranks : numbers) {
      config.optimizer.use_distributed_optimizer = false;
      for (const Made& made : steps_of_ranks(config, ranks)) {
        expect_same(made, wanted, ranks);
        expect_near(made.gradients, wanted.gradients, ranks);
      }
    }
    config.optimizer.use_distributed_optimizer = true;
    const int64_t ranks = numbers.front();
    const std::vector<Made> all = steps_of_ranks(config, ranks);
    for (const Made& made : all) {
      expect_same(made, wanted, ranks);
      expect_near(made.weights, wanted.weights, 10 * kNear, "weights of shared out updates");
      for (const auto& [name, tensor] : made.weights) {
        EXPECT_TRUE(tensor.equal(all.front().weights.at(name))) << name << " differs between ranks";
      }
    }
  }
};

// users' pain point 18: rows with and without pictures together.
TEST_F(ManyRanks, FullFineTuningIsThatOfOneRank) { expect_as_one_rank(config("sft"), {3, 2, 4}); }
TEST_F(ManyRanks, LoraIsThatOfOneRank) { expect_as_one_rank(config("lora", "lora"), {2, 4}); }
TEST_F(ManyRanks, DoraIsThatOfOneRank) { expect_as_one_rank(config("dora", "dora"), {3}); }

TEST_F(ManyRanks, LoraOnFourBitsIsThatOfOneRank) {
  TrainConfig config = this->config("qlora", "lora");
  config.peft.base_bits = "4";
  expect_as_one_rank(config, {2});
}

TEST_F(ManyRanks, PackedRowsAreThoseOfOneRank) {
  TrainConfig config = this->config("packed");
  config.dataset.pack_sequences_in_batch = true;
  expect_as_one_rank(config, {4});
}

// Only rows with pictures have gradients of the tower, of which a rank may have none.
TEST_F(ManyRanks, OnlyTheTowerTrains) {
  TrainConfig config = this->config("tower");
  config.model.freeze_language_model = true;
  config.train.micro_batch_size = 1;  // a row without pictures has no backward pass
  expect_as_one_rank(config, {4});
}

TEST_F(ManyRanks, DroppedRowsAreThoseOfOneRank) {
  TrainConfig config = this->config("dropped", "lora");
  config.model.seq_length = 60;
  config.dataset.overlong = "drop";
  Trainer one(config);
  const Made wanted = make_steps(one, 4);
  ASSERT_GT(one.progress().consumed_samples, 4 * config.train.global_batch_size);
  run_ranks(3, [&](const World& world) {
    Trainer trainer(config, {}, world);
    expect_same(make_steps(trainer, 4), wanted, 3);
    EXPECT_EQ(trainer.progress().consumed_samples, one.progress().consumed_samples);
  });
}

// Saved by two ranks, gone on with by three and by one; rows are dropped on the way.
TEST_F(ManyRanks, ARunGoesOnWithOtherRanks) {
  TrainConfig config = this->config("whole");
  config.model.seq_length = 60;
  config.dataset.overlong = "drop";
  config.train.train_iters = 6;
  config.validation.eval_interval = 0;
  const auto losses = [&](int64_t ranks) {
    std::vector<double> losses;
    run_ranks(ranks, [&](const World& world) {
      Trainer(config, {}, world).run([&](const StepMetrics& metrics) {
        if (world.is_first()) losses.push_back(metrics.loss);
      });
    });
    return losses;
  };
  const std::vector<double> whole = losses(1);
  config.checkpoint.save = (directory_ / "parts").string();
  config.train.exit_interval = 2;
  std::vector<double> parts;
  for (const int64_t ranks : {2, 3, 1}) {
    const std::vector<double> some = losses(ranks);
    parts.insert(parts.end(), some.begin(), some.end());
    config.checkpoint.load = config.checkpoint.save;
  }
  ASSERT_EQ(parts.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(parts[i], whole[i], kNear * whole[i]) << i;
  std::ifstream log(fs::path(config.checkpoint.save) / "metrics.jsonl");
  std::vector<int64_t> ranks;
  for (std::string line; std::getline(log, line);) ranks.push_back(Json::parse(line)["ranks"]);
  EXPECT_EQ(ranks, (std::vector<int64_t>{2, 2, 3, 3, 1, 1}));
}

TEST_F(ManyRanks, ARowThatCannotBeUsedIsToldWithItsRank) {
  TrainConfig config = this->config("overlong");
  config.model.seq_length = 60;
  config.dataset.overlong = "error";
  std::mutex mutex;
  std::vector<std::string> told;
  run_ranks(2, [&](const World& world) {
    Trainer trainer(config, {}, world);
    try {
      make_steps(trainer);
    } catch (const AgreedError& error) {
      const std::scoped_lock lock(mutex);
      told.emplace_back(error.what());
    }
  });
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0], told[1]);
  EXPECT_TRUE(told[0].starts_with("rank ")) << told[0];
  EXPECT_NE(told[0].find("row "), told[0].npos) << told[0];
}

TEST_F(ManyRanks, ValidationIsThatOfOneRank) {
  TrainConfig config = this->config("validated");
  config.validation.path_or_dataset = config.dataset.path_or_dataset;
  config.validation.eval_interval = 1;
  config.validation.answers = 5;
  config.validation.max_new_tokens = 3;
  config.train.train_iters = 1;
  config.scheduler.lr_warmup_iters = 0;
  const auto line = [&](int64_t ranks) {
    config.checkpoint.save = (directory_ / std::to_string(ranks)).string();
    run_ranks(ranks, [&](const World& world) { Trainer(config, {}, world).run(); });
    std::ifstream log(fs::path(config.checkpoint.save) / "metrics.jsonl");
    std::string text;
    for (std::string each; std::getline(log, each);) text = each;
    return Json::parse(text);
  };
  const Json wanted = line(1), given = line(3);
  ASSERT_TRUE(wanted.contains("valid_loss"));
  for (const auto& [key, value] : wanted.items()) {
    if (key == "valid_seconds") continue;
    EXPECT_NEAR(given.at(key).get<double>(), value.get<double>(),
                kNear * std::abs(value.get<double>()))
        << key;
  }
}

TEST(SharedOutOptimizer, HoldsItsShareOfTheState) {
  run_ranks(4, [](const World& world) {
    const auto weights = [](int64_t n) { return at::ones({n, 7}).requires_grad_(true); };
    const AdamW::NamedTensors parameters = {
        {"a", weights(40)}, {"b", weights(3)}, {"c", weights(1000)}};
    const Grid grid(world, {.data = 4}, at::kCPU);
    const GradientSync sync(parameters, grid, at::kCPU, /*distributed=*/true);
    const AdamW optimizer(sync.parts(), {});
    int64_t held = 0, all = 0;
    for (const StateShard& shard : optimizer.shards()) held += shard.tensor.numel();
    for (const auto& [name, tensor] : parameters) all += 3 * tensor.numel();
    EXPECT_NEAR(static_cast<double>(held), static_cast<double>(all) / 4, 0.05 * all / 4);
  });
}

}  // namespace
}  // namespace trestle
