// A step that never waits for the host: what a card computes is read once, where the step's losses
// and its gradient norm are. Operators that make the host wait for a value or for a number of
// elements are seen on the CPU as well, where they cost nothing.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "host_reads.h"
#include "model/host_input.h"
#include "train/testing.h"

namespace trestle {
namespace {

using testing::Waits, testing::waits_of;

TEST(HostReads, AreSeen) {
  const at::Tensor x = at::arange(4);
  EXPECT_EQ(waits_of([&] { (x + 1).sum().item<int64_t>(); }),
            (Waits{{"aten::_local_scalar_dense", 1}}));
  EXPECT_EQ(waits_of([&] { x.index({x.gt(1)}); }), (Waits{{"aten::nonzero", 1}}));
  EXPECT_EQ(waits_of([&] { x.add(1); }), Waits());
}

TEST(HostReads, AreNotNeededForPlacesAndTargets) {
  const at::Tensor labels = at::tensor({-100, 7, -100, -100, 3, 7, -100}, at::kLong);
  const at::Tensor places = at::tensor({1, 4, 5}, at::kLong);
  Targets targets;
  at::Tensor sevens, none;
  EXPECT_EQ(waits_of([&] {
              targets = Targets::of(labels);
              sevens = places_of(labels, 7);
              none = places_of(labels, 8);
            }),
            Waits());
  EXPECT_TRUE(at::equal(targets.places_N, places));
  EXPECT_TRUE(at::equal(targets.ids_N, at::tensor({7, 3, 7}, at::kLong)));
  EXPECT_EQ(targets.count(), 3);
  EXPECT_TRUE(at::equal(sevens, at::tensor({1, 5}, at::kLong)));
  EXPECT_EQ(none.sizes(), at::IntArrayRef({0}));
}

class StepWithoutWaits : public testing::RunTest {
 protected:
  void SetUp() override {
    RunTest::SetUp();
    std::ofstream data(directory_ / "data.jsonl");
    for (int i = 0; i < 3; ++i) testing::write_picture_rows(data);
  }

  // The second step: the first makes what is kept.
  void expect_none(const TrainConfig& config) {
    Trainer trainer(config);
    trainer.step();
    StepMetrics metrics;
    EXPECT_EQ(waits_of([&] { metrics = trainer.step(); }), Waits()) << config.checkpoint.save;
    EXPECT_GT(metrics.forwards, 1);
    EXPECT_GT(metrics.images, 0);
    EXPECT_TRUE(std::isfinite(metrics.loss) && metrics.loss > 0);
  }

  TrainConfig config(const std::string& name, const std::string& scheme = "") const {
    TrainConfig config = RunTest::config(name, scheme);
    config.model.params_dtype = "float32";
    config.checkpoint.pretrained_checkpoint = "../assets/demo/model";
    config.dataset.image_max_edge = 56;
    config.logger.log_params_norm = true;
    return config;
  }
};

TEST_F(StepWithoutWaits, FullFineTuning) {
  TrainConfig sft = config("sft");
  expect_none(sft);
  sft.model.recompute_granularity = "full";
  expect_none(sft);
}

TEST_F(StepWithoutWaits, Adapters) {
  for (const char* scheme : {"lora", "dora"}) {
    TrainConfig adapted = config(scheme, scheme);
    adapted.peft.target_modules = {"lm.*", "vision.*", "projector.*"};
    adapted.peft.dropout = 0.1;
    adapted.model.recompute_granularity = "selective";
    expect_none(adapted);
  }
}

TEST_F(StepWithoutWaits, AdaptersOnAHeldBase) {
  for (const char* bits : {"4", "8"}) {
    TrainConfig held = config(bits, "lora");
    held.peft.base_bits = bits;
    expect_none(held);
  }
}

TEST_F(StepWithoutWaits, PackedRows) {
  TrainConfig packed = config("packed", "lora");
  packed.dataset.pack_sequences_in_batch = true;
  packed.model.seq_length = 64;
  packed.train.global_batch_size = 8;
  packed.train.micro_batch_size = 1;
  expect_none(packed);
}

}  // namespace
}  // namespace trestle
