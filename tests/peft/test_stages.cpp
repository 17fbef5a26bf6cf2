// A pipeline's stage: the parameters that it has, their values however they come, and adapters that
// are the whole model's.
#include <ATen/ATen.h>

#include <map>

#include "golden.h"
#include "hf_testing.h"
#include "parallel/stages.h"
#include "peft/lora.h"
#include "peft/peft_folder.h"
#include "peft/pissa.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;
using testing::TempDir;
using Values = std::map<std::string, at::Tensor>;

constexpr const char* kEmbedding = "language_model.embedding.word_embeddings.weight";

std::vector<Build> stages(const Topology& topology, int64_t layers) {
  std::vector<Build> builds;
  for (int64_t i = 0; i < topology.pipeline; ++i) {
    builds.emplace_back();
    builds.back().stage = stage_of_runs(topology, equal_runs(topology, layers), i);
  }
  return builds;
}

Values values_of(const Ministral3& model) {
  Values values;
  for (const auto& entry : model.named_parameters()) values[entry.key()] = entry.value().detach();
  return values;
}

// Each parameter of the whole is in one stage, a tied embedding in both ends; with its value.
void expect_shared_out(const Ministral3& whole,
                       const std::vector<std::shared_ptr<Ministral3>>& parts) {
  const Values all = values_of(whole);
  std::map<std::string, int64_t> seen;
  for (const auto& part : parts) {
    for (const auto& [name, value] : values_of(*part)) {
      ++seen[name];
      ASSERT_TRUE(all.contains(name)) << name;
      EXPECT_TRUE(at::equal(value, all.at(name))) << name;
    }
  }
  EXPECT_EQ(seen.size(), all.size());
  for (const auto& [name, times] : seen) {
    const bool twice = name == kEmbedding && whole.config().text.tie_word_embeddings;
    EXPECT_EQ(times, twice ? 2 : 1) << name;
  }
}

const std::vector<Topology>& topologies() {
  static const std::vector<Topology> list = {
      {.pipeline = 2}, {.pipeline = 4}, {.pipeline = 2, .virtual_pipeline = 2}};
  return list;
}

TEST(Stages, ShareOutTheModel) {
  for (const char* name : {"golden/tied", "golden/untied", "golden/text"}) {
    const OpenCheckpoint checkpoint(name);
    const auto whole = load_model(checkpoint, {});
    const int64_t layers = checkpoint.config().text.num_layers;
    std::vector<std::shared_ptr<Ministral3>> parts;
    for (const Build& build : stages({.pipeline = 3}, layers)) {
      parts.push_back(load_model(checkpoint, build));
    }
    expect_shared_out(*whole, parts);
    EXPECT_FALSE(parts[1]->language_model().has_embedding() ||
                 parts[1]->language_model().has_head() || parts[1]->vision_tower() != nullptr);
    EXPECT_THROW(parts[1]->language_model().layers({}, 0, 1, {}), c10::Error);
    EXPECT_THROW(parts[0]->language_model().head_weight(), c10::Error);
    EXPECT_THROW(parts[2]->language_model().embed(at::zeros({1}, at::kLong)), c10::Error);
  }
}

// As the golden's, of four layers.
ModelConfig four_layers(bool tied) {
  ModelConfig config = OpenCheckpoint(tied ? "golden/tied" : "golden/untied").config();
  config.text.num_layers = 4;
  return config;
}

TEST(Stages, StartFromTheNumbersOfTheWhole) {
  for (const bool tied : {true, false}) {
    Ministral3 whole(four_layers(tied));
    whole.initialize(5);
    for (const Topology& topology : topologies()) {
      std::vector<std::shared_ptr<Ministral3>> parts;
      for (const Build& build : stages(topology, 4)) {
        parts.push_back(std::make_shared<Ministral3>(four_layers(tied), build));
        parts.back()->initialize(5);
      }
      expect_shared_out(whole, parts);
    }
  }
}

TEST(Stages, AdaptersStartAsTheWholes) {
  LoraConfig lora;
  lora.scheme = "lora";
  lora.dim = 4;
  lora.dropout = 0;
  lora.lora_B_init_method = "normal";
  LoraConfig parts_alone = lora, dora = lora, pissa = lora, fast_pissa = lora;
  parts_alone.target_modules = {"q_proj", "up_proj", "vision.v_proj", "projector.linear_2"};
  dora.scheme = "dora";
  pissa.lora_A_init_method = "pissa";
  fast_pissa.lora_A_init_method = "pissa_niter_4";
  for (const LoraConfig& config : {lora, parts_alone, dora, pissa, fast_pissa}) {
    Ministral3 whole(four_layers(true));
    whole.initialize(5);
    const AdapterSummary summary = attach_lora(whole, config, 3);
    take_initial_from_base(whole);
    for (const Topology& topology : topologies()) {
      std::vector<std::shared_ptr<Ministral3>> parts;
      int64_t modules = 0;
      for (const Build& build : stages(topology, 4)) {
        parts.push_back(std::make_shared<Ministral3>(four_layers(true), build));
        parts.back()->initialize(5);
        modules += attach_lora(*parts.back(), config, 3).modules;
        take_initial_from_base(*parts.back());
      }
      EXPECT_EQ(modules, summary.modules);
      expect_shared_out(whole, parts);
    }
  }
}

// Of a file's adapters a stage takes its own, and holds the file to the whole model.
TEST(Stages, AdaptersAreReadFromTheWholesFiles) {
  const OpenCheckpoint tied("golden/tied"), hf("fixtures/hf");
  const std::vector<std::pair<const OpenCheckpoint*, fs::path>> adapters = {
      {&tied, "golden/tied/lora"},
      {&tied, "golden/tied/lora_towers"},
      {&tied, "golden/tied/dora"},
      {&hf, "fixtures/megatron/lora"},
      {&hf, "fixtures/megatron/dora"}};
  for (const auto& [base, path] : adapters) {
    const auto whole = load_model(*base, {});
    const AdapterSummary summary = load_adapter(*whole, path);
    std::vector<std::shared_ptr<Ministral3>> parts;
    int64_t modules = 0;
    for (const Build& build : stages({.pipeline = 3}, base->config().text.num_layers)) {
      parts.push_back(load_model(*base, build));
      modules += load_adapter(*parts.back(), path).modules;
    }
    EXPECT_EQ(modules, summary.modules) << path;
    expect_shared_out(*whole, parts);
  }
}

TEST(Stages, RefuseFilesOfAnotherModel) {
  const OpenCheckpoint text("golden/text");
  for (const Build& build : stages({.pipeline = 3}, 3)) {
    const auto part = load_model(text, build);
    expect_mentions(error_of([&] { load_adapter(*part, "golden/tied/lora_towers"); }),
                    {"belong to no projection of this model"});
    LoraConfig config;
    config.scheme = "lora";
    config.dim = 4;
    config.target_modules = {"vision.q_proj"};
    expect_mentions(error_of([&] { attach_lora(*part, config, 1); }), {"no vision.q_proj"});
  }
}

}  // namespace
}  // namespace trestle
