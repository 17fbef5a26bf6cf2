// Time and traffic of a step against counts by hand, and which topologies there are.
#include <gtest/gtest.h>

#include <set>

#include "errors.h"
#include "planner/search.h"
#include "planner/step.h"
#include "planner/testing.h"

namespace trestle {
namespace {

using testing::planned;
using testing::small_model;
using testing::small_run;

// 512 tokens of 128 columns in bf16, six layers.
constexpr double kStream = 512 * 128 * 2;

PlannedRun text_run(const std::string& scheme = "", int64_t samples = 8) {
  TrainConfig config = small_run(scheme, "bf16");
  config.train.global_batch_size = samples;
  PlannedRun run = planned(small_model(false, /*vision=*/false), config);
  run.on_card = true;
  return run;
}

// Rates of one, so that seconds are operations and bytes.
Machine machine(int64_t ranks, int64_t a_node = 8) {
  Machine machine = usual_cards(ranks);
  machine.ranks_per_node = a_node;
  machine.flops.value = machine.bandwidth.value = machine.link.value = 1;
  machine.network.value = 0.5;
  return machine;
}

TEST(Step, OneRankMultipliesAndSendsNothing) {
  const PlannedRun run = text_run();
  const StepPlan step = step_of(run, {}, machine(1));
  EXPECT_EQ(step.compute, step.flops);
  EXPECT_EQ(step.traffic.total(), 0);
  EXPECT_EQ(step.micro_batches, 8);
  EXPECT_EQ(step.tokens, 8 * 512);
  // Six operations a weight and token but for the embedding, and attention's on top.
  const double weights = 6 * (128 * 192 + 128 * 128 + 3 * 128 * 384) + 1024 * 128;
  const double attention = 3.0 * 4 * 8 * 16 * (512 * 513 / 2) * 6;
  EXPECT_DOUBLE_EQ(step.flops, 8 * (6 * 512 * weights + attention));
}

TEST(Step, TensorRanksSumTheStreamFourTimesALayer) {
  const PlannedRun run = text_run();
  const double sums = 6 * 4 * kStream + kStream  // layers; the embedding
                      + kStream + 512 * 12;      // the head: every token is a target
  const double each = 2.0 * 3 / 4 * sums;
  const StepPlan step = step_of(run, {.tensor = 4}, machine(4));
  EXPECT_DOUBLE_EQ(step.traffic.tensor, 8 * each);
  EXPECT_DOUBLE_EQ(step.tensor, 8 * each);
  // The same bytes by gathers and scatters, and twice the time between nodes of two.
  EXPECT_DOUBLE_EQ(
      step_of(run, {.tensor = 4, .sequence_parallel = true}, machine(4)).traffic.tensor, 8 * each);
  EXPECT_DOUBLE_EQ(step_of(run, {.tensor = 4}, machine(4, 2)).tensor, 16 * each);
  // What is computed again is summed again.
  PlannedRun full = text_run();
  full.config.model.recompute_granularity = "full";
  const StepPlan again = step_of(full, {.tensor = 4}, machine(4));
  EXPECT_DOUBLE_EQ(again.traffic.tensor, 8 * 1.5 * (sums + 6 * 2 * kStream));
  EXPECT_GT(again.compute, step.compute);
  EXPECT_EQ(again.flops, step.flops);
}

TEST(Step, DataRanksExchangeGradientsOnce) {
  PlannedRun run = text_run();
  const auto trained = static_cast<double>(run.shape.trained());
  const StepPlan divided = step_of(run, {.data = 4}, machine(4));
  // fp32 gradients scattered, bf16 weights gathered, by three of four.
  EXPECT_DOUBLE_EQ(divided.traffic.data, 0.75 * trained * (4 + 2));
  EXPECT_EQ(divided.micro_batches, 2);
  run.config.optimizer.use_distributed_optimizer = false;
  const StepPlan whole = step_of(run, {.data = 4}, machine(4));
  EXPECT_DOUBLE_EQ(whole.traffic.data, 2 * 0.75 * trained * 4);
  EXPECT_DOUBLE_EQ(whole.optimizer, 4 * divided.optimizer);
}

TEST(Step, AdaptersExchangeTheirGradientsAlone) {
  const PlannedRun run = text_run("lora");
  const auto trained = static_cast<double>(run.shape.trained());
  EXPECT_EQ(run.shape.trained(), 6 * 8 * (128 + 192 + 128 + 128 + 128 + 768 + 384 + 128));
  EXPECT_DOUBLE_EQ(step_of(run, {.data = 2}, machine(2)).traffic.data, 0.5 * trained * 6);
}

TEST(Step, StagesWaitForEachOther) {
  const PlannedRun run = text_run();
  const StepPlan plain = step_of(run, {.pipeline = 2}, machine(2));
  EXPECT_DOUBLE_EQ(plain.bubble_share, 1.0 / 9);
  EXPECT_DOUBLE_EQ(plain.traffic.pipeline, 8 * 2 * kStream);
  const StepPlan chunks = step_of(run, {.pipeline = 2, .virtual_pipeline = 3}, machine(2));
  EXPECT_DOUBLE_EQ(chunks.bubble_share, 1.0 / (8 * 3 + 1));
  EXPECT_DOUBLE_EQ(chunks.traffic.pipeline, 3 * plain.traffic.pipeline);
  const double parts = chunks.compute + chunks.tensor + chunks.context + chunks.pipeline +
                       chunks.bubble + chunks.data + chunks.optimizer;
  EXPECT_NEAR(parts / chunks.seconds, 1, 1e-12);
}

TEST(Step, ContextRanksGatherKeysAndValues) {
  const StepPlan step = step_of(text_run(), {.context = 2}, machine(2));
  const double both = 512 * 2 * 2 * 16 * 2;
  EXPECT_DOUBLE_EQ(step.traffic.context, 8 * 6 * 2 * 0.5 * both);
}

TEST(Memory, RanksShareWeightsOptimizerAndActivations) {
  const PlannedRun run = text_run();
  const MemoryPlan one = memory_of(run, {}), data = memory_of(run, {.data = 4});
  EXPECT_EQ(data.weights, one.weights);
  EXPECT_EQ(data.optimizer, one.optimizer / 4);
  const MemoryPlan tensor = memory_of(run, {.tensor = 2});
  const int64_t norms = 13 * 128;  // all that tensor ranks have whole
  EXPECT_EQ(tensor.weights, (one.weights - 2 * norms) / 2 + 2 * norms);
  const MemoryPlan sequence = memory_of(run, {.tensor = 2, .sequence_parallel = true});
  EXPECT_LT(sequence.activations, tensor.activations);
  EXPECT_LT(tensor.activations, one.activations);
}

TEST(Search, HasEveryTopologyThatSizesAllow) {
  // 6 layers, 2 query groups, 8 samples.
  const std::vector<Candidate> all = all_topologies(text_run(), machine(4), {});
  std::set<std::string> found;
  for (const Candidate& one : all) {
    EXPECT_EQ(one.topology.world(), 4);
    EXPECT_TRUE(found.insert(to_string(one.topology)).second);
  }
  for (const char* there :
       {"TP 1 CP 1 PP 1 DP 4", "TP 2 CP 2 PP 1 DP 1 SP", "TP 1 CP 4 PP 1 DP 1",
        "TP 1 CP 1 PP 4 DP 1", "TP 1 CP 1 PP 2x3 DP 2", "TP 2 CP 1 PP 2x3 DP 1 SP"}) {
    EXPECT_TRUE(found.contains(there)) << there;
  }
  for (const char* absent : {"TP 4 CP 1 PP 1 DP 1 SP", "TP 1 CP 1 PP 4x2 DP 1"}) {
    EXPECT_FALSE(found.contains(absent)) << absent;
  }
  EXPECT_TRUE(std::ranges::is_sorted(
      all, {}, [](const Candidate& one) { return std::pair(!one.fits, one.step.seconds); }));
}

TEST(Search, HoldsAxesThatAreAskedFor) {
  for (const Candidate& one :
       all_topologies(text_run(), machine(4), {.tensor = 2, .pipeline = 1})) {
    EXPECT_EQ(one.topology.tensor, 2);
    EXPECT_EQ(one.topology.pipeline, 1);
  }
  EXPECT_REFUSED(all_topologies(text_run(), machine(4), {.tensor = 3}), "2 query groups",
                 "use 1 or 2");
  EXPECT_REFUSED(all_topologies(text_run(), machine(4), {.pipeline = 7}), "the model has 6");
  EXPECT_REFUSED(all_topologies(text_run(), machine(4), {.context = 3}), "is 3 ranks");
  EXPECT_REFUSED(
      all_topologies(text_run("", 1), machine(4), {.tensor = 1, .context = 1, .pipeline = 1}),
      "train.global_batch_size=1");
}

TEST(Search, SaysByHowMuchNothingFits) {
  Machine small = machine(2);
  small.memory_bytes = 1'000'000;
  const PlannedRun run = text_run();
  const std::vector<Candidate> all = all_topologies(run, small, {});
  EXPECT_FALSE(all.front().fits);
  testing::expect_mentions(reasons(all, run, small).front(),
                           {"none fits", "too many", "model.recompute_granularity=full",
                            "peft.scheme=lora", "more ranks"});
  small.memory_bytes = all.front().memory.total();
  EXPECT_TRUE(all_topologies(run, small, {}).front().fits);
}

TEST(Machine, ReadsRatesAsPeopleWriteThem) {
  EXPECT_EQ(parse_rate("--flops", "600T"), 600e12);
  EXPECT_EQ(parse_rate("--link", "450GB/s"), 450e9);
  EXPECT_EQ(parse_rate("--link", "1.5e9"), 1.5e9);
  for (const char* text : {"", "T", "0", "-1G", "nan", "inf", "1e30", "9 G", "GB/s"}) {
    EXPECT_REFUSED(parse_rate("--link", text), "--link", "450GB/s");
  }
  const Machine here = this_machine(2, at::kFloat);
  EXPECT_GT(here.flops.value, 1e8);
  EXPECT_GT(here.bandwidth.value, 1e8);
  EXPECT_EQ(here.flops.origin, Origin::kMeasured);
}

TEST(Shape, SizesOfTheFamilyAreThoseOfItsCheckpoints) {
  // The numbers of parameters of the published checkpoints, vision tower and projector included.
  TrainConfig config = small_run("", "bf16");
  const auto billions = [&](const char* size) {
    return static_cast<double>(ModelShape(ministral3_of_size(size), config).parameters()) / 1e9;
  };
  EXPECT_NEAR(billions("3b"), 3.85, 0.05);
  EXPECT_NEAR(billions("8b"), 8.92, 0.05);
  EXPECT_NEAR(billions("14b"), 13.95, 0.05);
  EXPECT_REFUSED(ministral3_of_size("24b"), "24b", "14b");
}

TEST(Shape, AdaptersAreCutAsTheirBaseIs) {
  const std::string layer = "language_model.decoder.layers.0.";
  const auto cut = [&](const std::string& name) { return split_of(layer + name); };
  EXPECT_EQ(cut("self_attention.linear_qkv.adapter.linear_in.weight"), Split::kReplicated);
  EXPECT_EQ(cut("self_attention.linear_qkv.adapter.linear_out.weight"), Split::kRows);
  EXPECT_EQ(cut("mlp.linear_fc1.adapter.weight_magnitude"), Split::kHalvedRows);
  EXPECT_EQ(cut("mlp.linear_fc2.adapter.linear_in.weight"), Split::kColumns);
  EXPECT_EQ(cut("mlp.linear_fc2.adapter.linear_out.weight"), Split::kReplicated);
  EXPECT_EQ(split_of("vision_tower.patch_conv.weight"), Split::kReplicated);
}

}  // namespace
}  // namespace trestle
