// One rank's memory: the plan against what torch's allocator counts of the real step.
#include <gtest/gtest.h>

#include <functional>

#include "cpu/cpu.h"
#include "errors.h"
#include "planner/activations.h"
#include "planner/memory.h"
#include "planner/testing.h"

namespace trestle {
namespace {

using testing::MeasuredStep;
using testing::planned;
using testing::small_model;
using testing::small_run;

struct Case {
  const char* name;
  /// Changes a run of full fine-tuning and says whether the embedding is the head.
  std::function<bool(TrainConfig&)> change;
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

std::function<bool(TrainConfig&)> adapters(const std::string& scheme, const std::string& recompute,
                                           const std::function<void(LoraConfig&)>& more = {}) {
  return [=](TrainConfig& config) {
    config.peft.scheme = scheme;
    config.model.recompute_granularity = recompute;
    if (more) more(config.peft);
    return false;
  };
}

std::function<bool(TrainConfig&)> model(bool tied, const std::string& recompute,
                                        const std::function<void(TrainConfig&)>& more = {}) {
  return [=](TrainConfig& config) {
    config.model.recompute_granularity = recompute;
    if (more) more(config);
    return tied;
  };
}

const Case kCases[] = {
    {"sft", model(false, "none")},
    {"sft_selective", model(false, "selective")},
    {"sft_full", model(false, "full")},
    {"sft_tied", model(true, "none")},
    {"sft_tied_full", model(true, "full")},
    {"sft_three_forwards",
     model(false, "full", [](TrainConfig& config) { config.train.global_batch_size = 3; })},
    {"sft_tied_three_forwards",
     model(true, "none", [](TrainConfig& config) { config.train.global_batch_size = 3; })},
    {"sft_two_samples_a_forward", model(false, "none",
                                        [](TrainConfig& config) {
                                          config.train.global_batch_size = 2;
                                          config.train.micro_batch_size = 2;
                                        })},
    {"sft_text_frozen",
     model(false, "none", [](TrainConfig& config) { config.model.freeze_language_model = true; })},
    {"sft_vision_frozen", model(false, "none",
                                [](TrainConfig& config) {
                                  config.model.freeze_vision_model = true;
                                  config.model.freeze_vision_projection = true;
                                })},
    {"sft_block", model(false, "full",
                        [](TrainConfig& config) {
                          config.model.recompute_method = "block";
                          config.model.recompute_num_layers = 3;
                        })},
    {"sft_two_layers_at_a_time",
     model(false, "full", [](TrainConfig& config) { config.model.recompute_num_layers = 2; })},
    {"lora", adapters("lora", "none")},
    {"lora_selective", adapters("lora", "selective")},
    {"lora_full", adapters("lora", "full")},
    {"lora_dropout", adapters("lora", "none", [](LoraConfig& peft) { peft.dropout = 0.1; })},
    {"lora_4_bits", adapters("lora", "none", [](LoraConfig& peft) { peft.base_bits = "4"; })},
    {"lora_8_bits_full", adapters("lora", "full", [](LoraConfig& peft) { peft.base_bits = "8"; })},
    {"lora_queries", adapters("lora", "none",
                              [](LoraConfig& peft) {
                                peft.target_modules = {"q_proj", "v_proj"};
                              })},
    {"lora_down",
     adapters("lora", "none", [](LoraConfig& peft) { peft.target_modules = {"linear_fc2"}; })},
    {"lora_vision", adapters("lora", "none",
                             [](LoraConfig& peft) {
                               peft.target_modules = {"vision.q_proj", "linear_qkv"};
                             })},
    {"dora", adapters("dora", "none")},
    {"dora_selective", adapters("dora", "selective")},
    {"dora_full", adapters("dora", "full")},
    {"dora_dropout", adapters("dora", "none", [](LoraConfig& peft) { peft.dropout = 0.1; })},
};

class EveryRun : public ::testing::TestWithParam<std::tuple<Case, const char*>> {};

TEST_P(EveryRun, HoldsWhatThePlanSays) {
  const auto& [one, dtype] = GetParam();
  TrainConfig config = small_run("", dtype);
  const bool tied = one.change(config);
  const PlannedRun run = planned(small_model(tied), config);
  const MeasuredStep measured = testing::measure(run);
  const MemoryPlan plan = memory_of(run, {});
  const auto ratio = [](int64_t planned, int64_t counted) {
    return static_cast<double>(planned) / static_cast<double>(counted);
  };
  EXPECT_NEAR(ratio(plan.weights, measured.weights), 1, 0.003);
  EXPECT_NEAR(ratio(plan.optimizer, measured.optimizer), 1, 0.001);
  const LayersKept vision = vision_bytes(run, {}), text = text_layers_bytes(run, {}, {0, 6});
  const int64_t kept = text.kept + vision.kept + head_bytes(run, {}) + context_bytes(run, {});
  EXPECT_NEAR(ratio(kept, measured.kept), 1, 0.04);
  // Pixels are the trainer's, and no tensor is the process's own. A processor without bf16
  // instructions widens what goes through a product, which the plan does not count.
  const bool widens = bf16_path() == Bf16Path::kWidened && config.dtype() == at::kBFloat16;
  EXPECT_NEAR(ratio(plan.total() - plan.samples - plan.process, measured.total()), 1,
              widens ? 0.1 : 0.04)
      << plan.moment;
}

std::string name_of(const ::testing::TestParamInfo<EveryRun::ParamType>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + std::get<1>(info.param);
}

INSTANTIATE_TEST_SUITE_P(Float, EveryRun,
                         ::testing::Combine(::testing::ValuesIn(kCases),
                                            ::testing::Values("float32")),
                         name_of);

// The ways that keep other tensors below fp32.
std::vector<Case> cases_of_half() {
  std::vector<Case> cases;
  for (const Case& one : kCases) {
    const std::string name = one.name;
    for (const char* taken : {"sft", "sft_full", "sft_three_forwards", "lora", "lora_full",
                              "lora_4_bits", "dora", "dora_full", "dora_dropout"}) {
      if (name == taken) cases.push_back(one);
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Half, EveryRun,
                         ::testing::Combine(::testing::ValuesIn(cases_of_half()),
                                            ::testing::Values("bf16")),
                         name_of);

}  // namespace
}  // namespace trestle
