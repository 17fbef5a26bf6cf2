// LoRA and DoRA inside the model: what is adapted, how it starts, what trains, and merging.
#include <cmath>
#include <regex>
#include <set>

#include "golden.h"
#include "hf_testing.h"
#include "peft/lora.h"
#include "peft/report.h"
#include "peft/sites.h"
#include "peft/targets.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
using testing::expect_near;
using testing::Golden;

LoraConfig config_of(std::vector<std::string> targets, std::string b_method = "normal") {
  LoraConfig config;
  config.scheme = "lora";
  config.dim = 4;
  config.alpha = 8;
  config.target_modules = std::move(targets);
  config.lora_B_init_method = std::move(b_method);
  return config;
}

const std::vector<std::string> kMegatron = LoraConfig().target_modules;
const std::vector<std::string> kHuggingFace = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                               "gate_proj", "up_proj", "down_proj"};

std::map<std::string, at::Tensor> adapter_parameters(const Ministral3& model) {
  std::map<std::string, at::Tensor> parameters;
  for (const auto& entry : model.named_parameters()) {
    if (entry.key().find(".adapter.") != std::string::npos) parameters[entry.key()] = entry.value();
  }
  return parameters;
}

// users' pain point 4: LoRA on the wrong modules.
TEST(Lora, AdaptsTheLanguageTowerAndFreezesTheRest) {
  const Golden golden("tied");
  for (const auto& [targets, per_layer] :
       {std::pair{kMegatron, 2 * 4}, std::pair{kHuggingFace, 2 * 7},
        std::pair{std::vector<std::string>{"k_proj", "down_proj", "k_proj"}, 2 * 2}}) {
    const auto model = golden.model();
    int64_t base = 0;
    for (const at::Tensor& parameter : model->parameters()) base += parameter.numel();
    const AdapterSummary summary = attach_lora(*model, config_of(targets), 1);
    const auto adapters = adapter_parameters(*model);
    EXPECT_EQ(adapters.size(), 3u * static_cast<size_t>(per_layer));
    int64_t trainable = 0;
    for (const auto& entry : model->named_parameters()) {
      const bool adapter = adapters.contains(entry.key());
      EXPECT_EQ(entry.value().requires_grad(), adapter) << entry.key();
      if (!adapter) continue;
      EXPECT_TRUE(entry.key().starts_with("language_model.decoder.layers.")) << entry.key();
      trainable += entry.value().numel();
    }
    EXPECT_EQ(summary.trainable, trainable);
    EXPECT_EQ(summary.total, base + trainable);
    EXPECT_EQ(summary.modules, per_layer == 4 ? 3 * 2 : 3 * 4);
  }
}

at::Tensor all_of(const Ministral3& model, const std::string& ending);

// Modules that targets reach, without their layers' numbers.
std::set<std::string> adapted(const Ministral3& model) {
  std::set<std::string> modules;
  for (const AdapterSite& site : adapter_sites(model)) {
    if (!site.linear->adapter()) continue;
    modules.insert(
        fmt::format("{}.{}", site.name.substr(0, site.name.find('.')), last_component(site.name)));
  }
  return modules;
}

// users' pain point 4: LoRA on the wrong modules.
TEST(Lora, TargetsNameAPartOfTheModel) {
  const Golden golden("tied");
  const auto reached = [&](const std::vector<std::string>& targets) {
    const auto model = golden.model();
    attach_lora(*model, config_of(targets), 1);
    return adapted(*model);
  };
  using Modules = std::set<std::string>;
  // Without a component the vision tower's linears of the same names stay as they are.
  EXPECT_EQ(reached({"o_proj", "down_proj"}),
            (Modules{"language_model.linear_proj", "language_model.linear_fc2"}));
  EXPECT_EQ(reached({"lm.linear_qkv"}), Modules{"language_model.linear_qkv"});
  EXPECT_EQ(reached({"vision.q_proj"}), Modules{"vision_tower.q_proj"});
  EXPECT_EQ(reached({"vision.linear_qkv", "vision.linear_proj"}),
            (Modules{"vision_tower.q_proj", "vision_tower.k_proj", "vision_tower.v_proj",
                     "vision_tower.o_proj"}));
  EXPECT_EQ(reached({"vision.linear_fc1", "vision.linear_fc2"}),
            (Modules{"vision_tower.gate_proj", "vision_tower.up_proj", "vision_tower.down_proj"}));
  EXPECT_EQ(reached({"projector.linear_1", "projector.merging_layer"}),
            (Modules{"multi_modal_projector.linear_1", "multi_modal_projector.merging_layer"}));
  EXPECT_EQ(reached({"vision.*", "projector.*"}).size(), 7u + 3u);
  EXPECT_EQ(reached({"lm.*"}), reached(kMegatron));
}

// Megatron Bridge adapts the modules that its pattern names: `*` is any text (ModuleMatcher).
TEST(Lora, TheBridgesPatternsNameTheSameModules) {
  const Golden golden("tied");
  for (const char* target : {"vision.up_proj", "vision.q_proj", "vision.o_proj",
                             "projector.linear_1", "projector.merging_layer"}) {
    const auto model = golden.model();
    attach_lora(*model, config_of({target}), 1);
    const std::string pattern = std::regex_replace(bridge_target(target), std::regex("[*]"), ".*");
    int64_t named = 0;
    for (const AdapterSite& site : adapter_sites(*model)) {
      const bool matches = std::regex_match(site.name, std::regex(pattern));
      EXPECT_EQ(matches, site.linear->adapter() != nullptr) << target << ": " << site.name;
      named += matches;
    }
    EXPECT_GT(named, 0) << target;
  }
}

TEST(Lora, ThePartsTellTheirConfig) {
  const Golden golden("tied");
  const auto model = golden.model();
  const std::vector<std::string> targets = {"linear_qkv", "vision.q_proj", "vision.up_proj",
                                            "projector.linear_2"};
  attach_lora(*model, config_of(targets), 1);
  EXPECT_EQ(lora_config_of(*model).target_modules, targets);
}

// Counted by hand: the tied model has 3 layers of hidden 48, qkv 160 rows; 2 vision layers of
// hidden 32, ffn 48.
// users' pain point 4: LoRA on the wrong modules.
TEST(Lora, TheTableCountsWhatTrains) {
  const Golden golden("tied");
  const auto model = golden.model();
  const auto vision_layers = static_cast<int64_t>(model->vision_tower()->num_layers());
  LoraConfig config = config_of({"linear_qkv", "vision.up_proj", "projector.linear_1"});
  config.scheme = "dora";
  const AdapterSummary summary = attach_lora(*model, config, 1);
  const std::vector<AdapterRow> rows = adapter_rows(*model);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].component, "lm");
  EXPECT_EQ(rows[0].module, "linear_qkv");
  EXPECT_EQ(rows[0].modules, 3);
  EXPECT_EQ(rows[0].rank, 4);
  EXPECT_EQ(rows[0].parameters, 3 * (4 * 48 + 160 * 4 + 160));
  EXPECT_EQ(rows[1].component, "vision");
  EXPECT_EQ(rows[1].modules, vision_layers);
  EXPECT_EQ(rows[1].parameters, vision_layers * (4 * 32 + 48 * 4 + 48));
  EXPECT_EQ(rows[2].component, "projector");
  EXPECT_EQ(rows[2].parameters, 4 * 32 + 48 * 4 + 48);
  const auto parts = golden.model();
  attach_lora(*parts, config_of({"q_proj", "v_proj"}), 1);
  EXPECT_EQ(adapter_rows(*parts).at(0).module, "linear_qkv: q_proj v_proj");
  int64_t all = 0;
  for (const AdapterRow& row : rows) all += row.parameters;
  EXPECT_EQ(all, summary.trainable);

  const DoraCost cost = dora_cost(*model);
  EXPECT_EQ(cost.magnitudes, 3 * 160 + vision_layers * 48 + 48);
  EXPECT_EQ(cost.lora_parameters + cost.magnitudes, summary.trainable);
  EXPECT_EQ(cost.kept_per_token, 4 * cost.magnitudes);
  EXPECT_EQ(cost.added_per_token, static_cast<double>(cost.magnitudes));
  // W A^T, B (A A^T) and A A^T, two operations a product; a token goes through A, B and the base.
  const auto norms = [](int64_t rows, int64_t in) {
    return 2 * rows * in * 4 + 2 * rows * 4 * 4 + 2 * 4 * 4 * in;
  };
  const auto token = [](int64_t rows, int64_t in) { return 2 * 4 * (in + rows) + 2 * rows * in; };
  EXPECT_EQ(cost.norms, static_cast<double>(3 * norms(160, 48) + vision_layers * norms(48, 32) +
                                            norms(48, 32)));
  EXPECT_EQ(
      cost.lora_per_token,
      static_cast<double>(3 * token(160, 48) + vision_layers * token(48, 32) + token(48, 32)));
  expect_mentions(adapter_report(*model), {"vision", "up_proj", "projector", "linear_1", "DoRA"});
}

TEST(Lora, GaussianIsPefts) {
  const Golden golden("tied");
  const auto model = golden.model();
  LoraConfig config = config_of({"linear_fc2"}, "zero");
  config.lora_A_init_method = "gaussian";
  attach_lora(*model, config, 3);
  EXPECT_NEAR(all_of(*model, "linear_in.weight").std().item<double>(), 0.25, 0.025);
}

TEST(Lora, NamesAreMegatrons) {
  const Golden golden("tied");
  const auto model = golden.model();
  attach_lora(*model, config_of(kMegatron), 1);
  const auto adapters = adapter_parameters(*model);
  const std::string qkv = "language_model.decoder.layers.2.self_attention.linear_qkv.adapter.";
  EXPECT_EQ(adapters.at(qkv + "linear_in.weight").sizes(), at::IntArrayRef({4, 48}));
  EXPECT_EQ(adapters.at(qkv + "linear_out.weight").sizes(), at::IntArrayRef({160, 4}));
}

TEST(Lora, StartsAsTheBaseModel) {
  const Golden golden("tied");
  const auto model = golden.model();
  const at::NoGradGuard no_grad;
  const at::Tensor before = model->logits(golden.input());
  attach_lora(*model, config_of(kMegatron, "zero"), 1);
  EXPECT_TRUE(at::equal(model->logits(golden.input()), before));
}

TEST(Dora, StartsAsTheBaseModel) {
  const Golden golden("tied");
  for (const auto& targets : {kMegatron, kHuggingFace, {"k_proj", "up_proj"}}) {
    const auto model = golden.model();
    const at::NoGradGuard no_grad;
    const at::Tensor before = model->logits(golden.input());
    LoraConfig config = config_of(targets, "zero");
    config.scheme = "dora";
    const AdapterSummary summary = attach_lora(*model, config, 1);
    EXPECT_TRUE(at::equal(model->logits(golden.input()), before));
    EXPECT_EQ(lora_config_of(*model).scheme, "dora");
    int64_t magnitudes = 0;
    for (const auto& [name, tensor] : adapter_parameters(*model)) {
      EXPECT_TRUE(tensor.requires_grad()) << name;
      magnitudes += name.ends_with("weight_magnitude");
    }
    // One for each A.
    EXPECT_EQ(3u * static_cast<size_t>(magnitudes), adapter_parameters(*model).size());
    EXPECT_EQ(summary.modules, targets.size() == 2 ? 6 : 12);
  }
}

TEST(Dora, MergingKeepsTheLogits) {
  const Golden golden("tied");
  for (const auto& targets : {kMegatron, kHuggingFace, {"v_proj", "up_proj"}}) {
    const auto model = golden.model();
    const at::NoGradGuard no_grad;
    const at::Tensor plain = model->logits(golden.input());
    LoraConfig config = config_of(targets);
    config.scheme = "dora";
    attach_lora(*model, config, 5);
    // Updates of the size that training makes.
    for (auto& [name, tensor] : adapter_parameters(*model)) {
      if (name.ends_with("linear_out.weight")) at::Tensor(tensor).mul_(0.1);
    }
    for (const AdapterSite& site : adapter_sites(*model)) {
      const auto& adapter = site.linear->adapter();
      if (adapter) adapter->set_magnitude(site.linear->row_norms() * 1.1);
    }
    const at::Tensor adapted = model->logits(golden.input());
    EXPECT_GT((adapted - plain).abs().max().item<double>(), 0.1);
    EXPECT_EQ(merge_adapters(*model), targets.size() == 2 ? 6 : 12);
    expect_near(model->logits(golden.input()), adapted, 1e-5, "merged");
  }
}

TEST(Lora, TheSeedAloneDecidesTheStart) {
  const Golden golden("tied");
  const auto start = [&](uint64_t seed, at::ScalarType dtype) {
    const auto model = golden.model(dtype);
    attach_lora(*model, config_of(kHuggingFace), seed);
    return adapter_parameters(*model);
  };
  const auto first = start(7, at::kFloat);
  const auto again = start(7, at::kFloat);
  const auto half = start(7, at::kBFloat16);
  const auto other = start(8, at::kFloat);
  std::set<float> firsts;
  for (const auto& [name, tensor] : first) {
    EXPECT_TRUE(at::equal(tensor, again.at(name))) << name;
    EXPECT_TRUE(at::equal(tensor.to(at::kBFloat16), half.at(name))) << name;
    EXPECT_FALSE(at::equal(tensor, other.at(name))) << name;
    firsts.insert(tensor.flatten()[0].item<float>());
  }
  EXPECT_EQ(firsts.size(), first.size());
}

// All entries of one kind of weight over the three layers: over 500 of them.
at::Tensor all_of(const Ministral3& model, const std::string& ending) {
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : adapter_parameters(model)) {
    if (name.ends_with(ending)) tensors.push_back(tensor.detach().flatten());
  }
  return at::cat(tensors);
}

TEST(Lora, InitMethodsAreMegatronBridges) {
  const Golden golden("tied");
  const auto start = [&](const std::string& a_method) {
    const auto model = golden.model();
    LoraConfig config = config_of({"linear_fc2"});
    config.lora_A_init_method = a_method;
    attach_lora(*model, config, 3);
    return all_of(*model, "linear_in.weight");  // [4, 80] each
  };
  const double xavier = std::sqrt(2.0 / (80 + 4));
  EXPECT_NEAR(start("xavier").std().item<double>(), xavier, 0.1 * xavier);
  // A normal has tails beyond what a uniform of the same deviation reaches.
  EXPECT_GT(start("xavier").abs().max().item<double>(), std::sqrt(3.0) * xavier);
  const double bound = 1 / std::sqrt(80.0);
  EXPECT_LE(start("kaiming").abs().max().item<double>(), bound);
  EXPECT_GT(start("kaiming").abs().max().item<double>(), 0.95 * bound);
  EXPECT_NEAR(start("normal").std().item<double>(), 0.2, 0.02);
  EXPECT_EQ(start("zero").abs().max().item<double>(), 0);
}

TEST(Lora, MergingKeepsTheLogits) {
  const Golden golden("tied");
  for (const auto& targets : {kMegatron, kHuggingFace, {"v_proj", "up_proj"}}) {
    const auto model = golden.model();
    const at::NoGradGuard no_grad;
    const at::Tensor plain = model->logits(golden.input());
    attach_lora(*model, config_of(targets), 5);
    // An update of the size that training makes.
    for (auto& [name, tensor] : adapter_parameters(*model)) {
      if (name.ends_with("linear_out.weight")) at::Tensor(tensor).mul_(0.1);
    }
    const at::Tensor adapted = model->logits(golden.input());
    EXPECT_GT((adapted - plain).abs().max().item<double>(), 0.1);
    EXPECT_EQ(merge_adapters(*model), targets.size() == 2 ? 6 : 12);
    EXPECT_TRUE(adapter_parameters(*model).empty());
    expect_near(model->logits(golden.input()), adapted, 1e-5, "merged");
    EXPECT_EQ(merge_adapters(*model), 0);
  }
}

// users' pain point 3: what was trained cannot be exported.
TEST(Lora, MergingRoundsBf16Once) {
  const Golden golden("tied");
  const auto model = golden.model(at::kBFloat16);
  attach_lora(*model, config_of(kMegatron), 5);
  const Linear& linear = *adapter_sites(*model)[0].linear;
  const LowRank& pair = *linear.adapter()->whole();
  const at::Tensor wanted =
      (linear.weight.to(at::kFloat) + 2 * at::mm(pair.b.to(at::kFloat), pair.a.to(at::kFloat)))
          .to(at::kBFloat16);
  merge_adapters(*model);
  EXPECT_TRUE(at::equal(linear.weight, wanted));
}

TEST(Lora, DropoutOnlyInTraining) {
  const Golden golden("tied");
  const auto model = golden.model();
  const at::NoGradGuard no_grad;
  LoraConfig config = config_of(kMegatron);
  config.dropout = 0.5;
  model->eval();
  attach_lora(*model, config, 5);
  const at::Tensor evaluated = model->logits(golden.input());
  EXPECT_TRUE(at::equal(model->logits(golden.input()), evaluated));
  model->train();
  EXPECT_FALSE(at::equal(model->logits(golden.input()), evaluated));
}

TEST(Lora, RankStabilisedScale) {
  const Golden golden("tied");
  const auto model = golden.model();
  LoraConfig config = config_of(kMegatron);
  config.dim = 3;
  config.use_rslora = true;
  attach_lora(*model, config, 5);
  EXPECT_NEAR(adapter_sites(*model)[0].linear->adapter()->whole()->scale(), 8 / std::sqrt(3.0),
              1e-12);
}

TEST(Lora, TheModelTellsItsConfig) {
  const Golden golden("tied");
  for (const auto& targets : {kMegatron, {"q_proj", "v_proj", "gate_proj"}}) {
    const auto model = golden.model();
    LoraConfig config = config_of(targets);
    config.dim = 3;
    config.alpha = 7;
    config.dropout = 0.25;
    attach_lora(*model, config, 5);
    const LoraConfig told = lora_config_of(*model);
    EXPECT_EQ(told.scheme, "lora");
    EXPECT_EQ(told.dim, 3);
    EXPECT_EQ(told.alpha, 7);
    EXPECT_EQ(told.dropout, 0.25);
    EXPECT_EQ(told.target_modules, targets);
  }
}

TEST(Lora, RefusesWhatCannotBe) {
  const auto refused = [](auto change) {
    LoraConfig config = config_of(kMegatron);
    change(config);
    return error_of([&] { config.validate(); });
  };
  using Config = LoraConfig&;
  expect_mentions(refused([](Config c) {
                    c.target_modules = {"q_proj", "linear_qkv"};
                  }),
                  {"q_proj", "linear_qkv", "keep one"});
  expect_mentions(refused([](Config c) {
                    c.target_modules = {"linear_proj", "o_proj"};
                  }),
                  {"o_proj", "linear_proj"});
  expect_mentions(refused([](Config c) { c.target_modules = {"q_porj"}; }), {"q_porj", "q_proj?"});
  expect_mentions(refused([](Config c) { c.target_modules = {"vision.q_porj"}; }),
                  {"vision.q_porj", "vision.q_proj?"});
  expect_mentions(refused([](Config c) { c.target_modules = {"linear_1"}; }), {"linear_1"});
  expect_mentions(refused([](Config c) {
                    c.target_modules = {"lm.*", "q_proj"};
                  }),
                  {"q_proj", "lm.*", "keep one"});
  expect_mentions(refused([](Config c) {
                    c.scheme = "dora";
                    c.lora_A_init_method = "pissa";
                  }),
                  {"pissa", "dora"});
  expect_mentions(refused([](Config c) { c.lora_plus_ratio = 0; }), {"lora_plus_ratio=0"});
  expect_mentions(refused([](Config c) { c.lora_A_init_method = "pissa_niter_x"; }),
                  {"pissa_niter_x", "pissa_niter_N"});
  expect_mentions(refused([](Config c) { c.lora_A_init_method = "pissa_niter_010"; }),
                  {"pissa_niter_010", "pissa_niter_N"});
  expect_mentions(refused([](Config c) { c.target_modules = {}; }), {"target_modules is empty"});
  expect_mentions(refused([](Config c) { c.scheme = "ia3"; }), {"ia3", "lora", "dora"});
  expect_mentions(refused([](Config c) { c.dim = 0; }), {"peft.dim=0"});
  expect_mentions(refused([](Config c) { c.alpha = NAN; }), {"peft.alpha"});
  expect_mentions(refused([](Config c) { c.dropout = 1; }), {"peft.dropout=1"});
  expect_mentions(refused([](Config c) { c.lora_A_init_method = "he"; }), {"he", "xavier"});
  expect_mentions(refused([](Config c) { c.lora_A_init_method = c.lora_B_init_method = "zero"; }),
                  {"zero"});
  const Golden golden("tied");
  const auto model = golden.model();
  LoraConfig config = config_of(kMegatron);
  config.dim = 49;
  EXPECT_REFUSED(attach_lora(*model, config, 1), "49", "48");
  EXPECT_TRUE(adapter_parameters(*model).empty());
  const auto text = Golden("text").model();
  EXPECT_REFUSED(attach_lora(*text, config_of({"q_proj", "vision.*"}), 1), "vision",
                 "language model only");
}

TEST(Lora, ConfigIsAGroupOfARun) {
  LoraConfig config;
  apply_override(config, "target_modules=[q_proj, v_proj]");
  apply_override(config, "dim=16");
  LoraConfig again;
  apply_yaml(again, to_yaml(config), "config");
  EXPECT_EQ(again.target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(again.dim, 16);
  EXPECT_REFUSED(apply_override(config, "lora_dim=16"), "lora_dim");
}

}  // namespace
}  // namespace trestle
