// What ranks of a real run hold and send, against the plan and docs/parallel.md. A thread is a
// rank.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "bridge/load_quantized.h"
#include "kernels/optimizer.h"
#include "model/ministral3.h"
#include "parallel/world.h"
#include "planner/memory.h"
#include "recipes/recipes.h"
#include "rehearse/shrink.h"
#include "temp_dir.h"
#include "train/trainer.h"

namespace trestle {
namespace {

using testing::TempDir;

constexpr const char* kDemo = "../assets/demo/model";

double state_bytes(const AdamW& optimizer) {
  double bytes = 0;
  for (const StateShard& shard : optimizer.shards()) {
    // In fp32 a weight is its own master.
    if (!shard.name.starts_with("param.")) bytes += static_cast<double>(shard.tensor.nbytes());
  }
  return bytes;
}

double weight_bytes(const Ministral3& model) {
  double bytes = 0;
  for (const at::Tensor& each : model.parameters()) {
    if (!each.is_meta()) bytes += static_cast<double>(each.nbytes());
  }
  for (const auto& [name, linear] : projections(model)) {
    for (const auto& [part, tensor] : held_tensors(*linear)) {
      bytes += static_cast<double>(tensor.nbytes());
    }
  }
  if (const BaseShards* base = model.language_model().base()) {
    bytes += static_cast<double>(base->bytes());
  }
  return bytes;
}

class RanksOfARun : public ::testing::Test {
 protected:
  RanksOfARun() {
    write_shrunk_model(kDemo, ministral3_of_size("8b"), {.tensor = 2, .pipeline = 2}, 5,
                       temp_ / "model");
    config_ = demo_config();
    config_.checkpoint.pretrained_checkpoint = (temp_ / "model").string();
    config_.checkpoint.save = (temp_ / "run").string();
    config_.dataset.path_or_dataset = "../assets/demo/data";
    config_.model.params_dtype = "float32";
    config_.train.global_batch_size = 4;
    config_.train.micro_batch_size = 1;
    config_.validation.eval_iters = 0;
    config_.peft.scheme = "";
  }

  void on(const Topology& topology, const std::function<void(Trainer&)>& look) {
    config_.model.tensor_model_parallel_size = topology.tensor;
    config_.model.context_parallel_size = topology.context;
    config_.model.pipeline_model_parallel_size = topology.pipeline;
    run_ranks(topology.world(), [&](const World& world) {
      Trainer trainer(config_, {}, world);
      const StepMetrics metrics = trainer.step();
      const std::scoped_lock lock(mutex_);
      last_[world.rank()] = metrics;
      look(trainer);
    });
  }

  TempDir temp_;
  TrainConfig config_;
  std::mutex mutex_;
  std::map<int64_t, StepMetrics> last_;
};

// Within 5 % of 1/N, as of weights.
TEST_F(RanksOfARun, HoldWhatThePlanSays) {
  for (const Topology& topology :
       {Topology{.data = 2}, Topology{.data = 4}, Topology{.tensor = 2},
        Topology{.tensor = 2, .data = 2}, Topology{.context = 2, .data = 2, .pipeline = 2}}) {
    for (const bool distributed : {true, false}) {
      SCOPED_TRACE(to_string(topology) + (distributed ? ", distributed" : ""));
      config_.optimizer.use_distributed_optimizer = distributed;
      on(topology, [&](Trainer& trainer) {
        const ModelConfig& model = trainer.model().config();
        const PlannedRun run{config_, ModelShape(model, config_), largest_sample(model, config_)};
        const int64_t stage = trainer.ranks().grid.place.pipeline;
        const MemoryPlan plan = moments_of(run, topology, stage).front();
        EXPECT_NEAR(weight_bytes(trainer.model()) / static_cast<double>(plan.weights), 1, 0.01);
        EXPECT_NEAR(state_bytes(trainer.optimizer()) / static_cast<double>(plan.optimizer), 1,
                    0.05);
      });
    }
  }
}

// A base that is shared out makes the same to the bit, in 1/N of the bytes, for what the docs say.
TEST_F(RanksOfARun, ShareAFrozenBaseOut) {
  config_.peft.scheme = "lora";
  config_.peft.dim = 4;
  config_.train.micro_batch_size = 4;  // one forward a rank
  for (const char* bits : {"16", "8", "4"}) {
    config_.peft.base_bits = bits;
    for (const Topology& topology :
         {Topology{.data = 2}, Topology{.data = 4}, Topology{.tensor = 2, .data = 2},
          Topology{.context = 2, .data = 2}, Topology{.data = 2, .pipeline = 2}}) {
      SCOPED_TRACE(to_string(topology) + ", bits " + bits);
      struct Rank {
        double loss, norm, sent;
        int64_t base = 0;
      };
      std::map<bool, std::vector<Rank>> made;
      for (const bool shared : {false, true}) {
        config_.peft.shard_base = shared;
        made[shared].resize(static_cast<size_t>(topology.world()));
        on(topology, [&](Trainer& trainer) {
          const BaseShards* base = trainer.model().language_model().base();
          const Grid& grid = trainer.ranks().grid;
          made[shared][static_cast<size_t>(trainer.ranks().rank)] = {
              last_.at(trainer.ranks().rank).loss, last_.at(trainer.ranks().rank).grad_norm,
              grid.gradients.traffic().bytes(), base == nullptr ? 0 : base->bytes()};
          const ModelConfig& model = trainer.model().config();
          const PlannedRun run{config_, ModelShape(model, config_), largest_sample(model, config_)};
          const MemoryPlan plan = moments_of(run, topology, grid.place.pipeline).front();
          EXPECT_NEAR(weight_bytes(trainer.model()) / static_cast<double>(plan.weights), 1, 0.05);
        });
      }
      const double share = 1 - 1.0 / static_cast<double>(topology.data * topology.context);
      for (size_t rank = 0; rank < made[true].size(); ++rank) {
        const Rank &with = made[true][rank], &without = made[false][rank];
        EXPECT_EQ(with.loss, without.loss);
        EXPECT_EQ(with.norm, without.norm);
        // Each rank's own part is not sent to itself.
        const auto base = static_cast<double>(with.base * topology.data * topology.context);
        // The layer where forward turns into backward is there.
        const auto layers = static_cast<double>(4 / topology.pipeline);
        const double gathered = (2 * layers - 1) / layers * base;
        EXPECT_NEAR((with.sent - without.sent) / (share * gathered), 1, 0.01);
      }
    }
  }
}

TEST_F(RanksOfARun, DataRanksSendWhatTheDocsSay) {
  for (const int64_t ranks : {2, 4}) {
    for (const bool distributed : {true, false}) {
      config_.optimizer.use_distributed_optimizer = distributed;
      on({.data = ranks}, [&](Trainer& trainer) {
        const Grid& grid = trainer.ranks().grid;
        double trained = 0;
        for (const at::Tensor& each : trainer.model().parameters()) {
          trained += static_cast<double>(each.numel());
        }
        // fp32 sums scattered and fp32 weights gathered, or sums given to all.
        const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
        EXPECT_NEAR(grid.gradients.traffic().bytes() / (share * trained * 8), 1, 1e-3)
            << ranks << (distributed ? " distributed" : "");
      });
    }
  }
}

}  // namespace
}  // namespace trestle
