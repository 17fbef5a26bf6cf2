// A step that never waits for the host: what a card computes is read once, where the step's losses
// and its gradient norm are. Operators that make the host wait for a value or for a number of
// elements are seen on the CPU as well, where they cost nothing.
#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>

#include "model/host_input.h"
#include "train/testing.h"

namespace trestle {
namespace {

// Those that read a value for the host, or have as many elements as values say.
const std::set<std::string_view> kWaiting = {"aten::_local_scalar_dense",
                                             "aten::nonzero",
                                             "aten::is_nonzero",
                                             "aten::equal",
                                             "aten::masked_select",
                                             "aten::unique_dim",
                                             "aten::_unique2",
                                             "aten::_unique",
                                             "aten::unique_consecutive",
                                             "aten::bincount",
                                             "aten::count_nonzero",
                                             "aten::repeat_interleave",
                                             "aten::nonzero_static"};

struct Seen {
  std::mutex mutex;
  std::map<std::string, int> waits;
  int operators = 0;
};
Seen* seen = nullptr;
thread_local int in_optimizer = 0;

// The CPU's fused optimizer reads its own count of steps; a card's does not.
bool is_optimizer(const at::RecordFunction& function) {
  return std::string_view(function.name()) == "aten::_fused_adamw_";
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
  if (is_optimizer(function)) ++in_optimizer;
  const std::scoped_lock lock(seen->mutex);
  ++seen->operators;
  if (in_optimizer == 0 && kWaiting.contains(function.name())) ++seen->waits[function.name()];
  return nullptr;
}

void end(const at::RecordFunction& function, at::ObserverContext*) {
  if (is_optimizer(function)) --in_optimizer;
}

// What `action` waits for, in all threads.
template <class Action>
std::map<std::string, int> waits_of(const Action& action) {
  Seen here;
  seen = &here;
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::FUNCTION}));
  action();
  at::removeCallback(handle);
  seen = nullptr;
  EXPECT_GT(here.operators, 0);
  return here.waits;
}

using Waits = std::map<std::string, int>;

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
