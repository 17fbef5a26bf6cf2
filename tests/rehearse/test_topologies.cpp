// Every way to share a run out over up to eight ranks makes what one rank makes: ten losses,
// gradient norms and all gradients, of full fine-tuning, LoRA, DoRA and a 4-bit base, with pictures
// of different sizes and packed rows. A thread is a rank.
#include <gtest/gtest.h>

#include <cstdlib>

#include "planner/shape.h"
#include "recipes/recipes.h"
#include "rehearse/rehearsal.h"
#include "rehearse/shrink.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::TempDir;

constexpr int64_t kSteps = 10;

struct Mode {
  const char* name;
  const char* scheme;
  const char* bits;
  bool tied, packed;
  size_t turn;
};
constexpr size_t kModes = 5;

void PrintTo(const Mode& mode, std::ostream* out) { *out << mode.name; }

// TP 1, 2, 4 x SP x PP 1, 2, 4 (interleaved too) x DP 1, 2, 4 x CP 1, 2 of up to eight ranks.
std::vector<Topology> topologies() {
  std::vector<Topology> all;
  for (const int64_t tensor : {1, 2, 4}) {
    for (const int64_t pipeline : {1, 2, 4}) {
      for (const int64_t data : {1, 2, 4}) {
        for (const int64_t context : {1, 2}) {
          const Topology plain{
              .tensor = tensor, .context = context, .data = data, .pipeline = pipeline};
          if (plain.world() == 1 || plain.world() > 8) continue;
          all.push_back(plain);
          Topology other = plain;
          other.sequence_parallel = tensor > 1;
          other.virtual_pipeline = pipeline == 2 ? 2 : 1;
          if (other != plain) all.push_back(other);
        }
      }
    }
  }
  return all;
}

class Topologies : public ::testing::TestWithParam<Mode> {};

INSTANTIATE_TEST_SUITE_P(Modes, Topologies,
                         ::testing::Values(Mode{"Sft", "", "16", true, false, 0},
                                           Mode{"SftPacked", "", "16", false, true, 1},
                                           Mode{"Lora", "lora", "16", false, true, 2},
                                           Mode{"Dora", "dora", "16", true, false, 3},
                                           Mode{"QLora", "lora", "4", false, true, 4}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Topologies, MakeWhatOneRankMakes) {
  const Mode& mode = GetParam();
  const TempDir temp;
  ModelConfig real = ministral3_of_size("3b");
  real.text.num_attention_heads = 8;
  real.text.num_query_groups = 4;
  real.text.tie_word_embeddings = mode.tied;
  // Four layers, on which every one of these pipelines can be cut.
  write_shrunk_model("../assets/demo/model", real, {.tensor = 4, .pipeline = 2}, 5, temp / "model");
  TrainConfig config = demo_config();
  config.checkpoint.pretrained_checkpoint = (temp / "model").string();
  config.checkpoint.save = (temp / "run").string();
  config.dataset.path_or_dataset = "../assets/demo/data";
  config.dataset.pack_sequences_in_batch = mode.packed;
  config.dataset.image_max_edge = 56;
  config.train.global_batch_size = 4;
  config.train.micro_batch_size = 1;
  config.optimizer.lr = 1e-3;
  config.optimizer.min_lr = 0;
  config.peft.scheme = mode.scheme;
  config.peft.base_bits = mode.bits;
  config.peft.dim = 4;
  config.optimizer.use_distributed_optimizer = true;
  const Rehearser distributed(config, kSteps);
  config.optimizer.use_distributed_optimizer = false;
  config.peft.shard_base = config.trains_adapters();
  const Rehearser whole(config, kSteps);
  // Each mode some of them, and all together every one; TRESTLE_EVERY_TOPOLOGY=1: each mode all.
  const bool every = std::getenv("TRESTLE_EVERY_TOPOLOGY") != nullptr;
  const std::vector<Topology> all = topologies();
  for (size_t i = 0; i < all.size(); ++i) {
    if (!every && i % kModes != mode.turn) continue;
    const Topology& topology = all[i];
    SCOPED_TRACE(to_string(topology));
    const Rehearsal rehearsal = (i / kModes % 2 == 0 ? distributed : whole).on(topology);
    EXPECT_EQ(rehearsal.numbers.size(), 4 * kSteps + 1);
    for (const RehearsedNumber& number : rehearsal.numbers) {
      EXPECT_LE(number.difference, rehearsal.tolerance)
          << number.name << ": " << number.one << " and " << number.many;
    }
  }
}

}  // namespace
}  // namespace trestle
