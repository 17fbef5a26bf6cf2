// Adapters of the real Megatron Bridge, and our own written as it writes them.
#include <cmath>

#include "checkpoint/hf_config.h"
#include "golden.h"
#include "hf_testing.h"
#include "megatron/writer.h"
#include "peft/lora.h"
#include "peft/megatron_adapter.h"
#include "peft/peft_folder.h"
#include "peft/sites.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;
using testing::NamedTensors;
using testing::read_safetensors;
using testing::same_bits;
using testing::TempDir;

const fs::path kFixtures = "fixtures/megatron";

Ministral3 without_weights(const fs::path& hf = "fixtures/hf") {
  return Ministral3(parse_hf_config(read_json(hf / "config.json"), "config.json"),
                    {at::kBFloat16, at::Device(at::kMeta)});
}

TEST(MegatronAdapter, GoesOutAsTheBridgeExportsIt) {
  const TempDir scratch;
  // Adapters need no weights of their base.
  Ministral3 model = without_weights();
  const AdapterSummary summary = load_adapter(model, kFixtures / "lora");
  EXPECT_EQ(summary.modules, 12);
  save_peft_folder(model, scratch / "out", {.spelling = HfSpelling::kLanguageModelFirst});
  const NamedTensors wanted =
      read_safetensors(kFixtures / "adapter_lora" / "adapter_model.safetensors");
  const NamedTensors got = read_safetensors(scratch / "out" / "adapter_model.safetensors");
  ASSERT_EQ(wanted.size(), 42u);
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].first, wanted[i].first);
    EXPECT_TRUE(same_bits(got[i].second, wanted[i].second)) << got[i].first;
  }
  const Json ours = read_json(scratch / "out" / "adapter_config.json");
  const Json theirs = read_json(kFixtures / "adapter_lora" / "adapter_config.json");
  for (const char* key : {"peft_type", "r", "lora_alpha", "lora_dropout", "bias", "use_dora",
                          "use_rslora", "task_type", "fan_in_fan_out", "modules_to_save"}) {
    EXPECT_EQ(ours.at(key), theirs.at(key)) << key;
  }
}

TEST(MegatronAdapter, TheBridgesExportLoadsToTheSameModel) {
  const TempDir scratch;
  const OpenCheckpoint base("fixtures/hf");
  const auto logits = [&](const fs::path& adapter) {
    const auto model = load_model(base, {at::kFloat, at::kCPU});
    const at::NoGradGuard no_grad;
    const auto input = ModelInput::make(at::arange(20, 40, at::kLong), {20});
    const at::Tensor plain = model->logits(input);
    load_adapter(*model, adapter);
    const at::Tensor adapted = model->logits(input);
    EXPECT_GT((adapted - plain).abs().max().item<double>(), 1e-4);
    return adapted;
  };
  testing::expect_near(logits(kFixtures / "adapter_lora"), logits(kFixtures / "lora"), 1e-5,
                       "logits");
}

// By hand, from what the fixture says of itself: y = m / ||W + 2 B A|| (W + 2 B A) x.
TEST(MegatronAdapter, TheBridgesDoraIsItsFormula) {
  const OpenCheckpoint base("fixtures/hf");
  const MegatronCheckpoint stored(kFixtures / "dora");
  const auto model = load_model(base, {at::kFloat, at::kCPU});
  const at::NoGradGuard no_grad;
  EXPECT_EQ(load_adapter(*model, kFixtures / "dora").modules, 12);
  EXPECT_EQ(stored.tensors().size(), 36u);
  for (const AdapterSite& site : adapter_sites(*model)) {
    if (!site.linear->adapter()) continue;
    const auto read = [&](const std::string& name) {
      return stored.read(site.name + ".adapter." + name).to(at::kDouble);
    };
    const at::Tensor sum = site.linear->weight.to(at::kDouble) +
                           2 * at::mm(read("linear_out.weight"), read("linear_in.weight"));
    const at::Tensor norms = at::linalg_vector_norm(sum, 2, at::IntArrayRef{1});
    const at::Tensor weight = sum * (read("weight_magnitude") / norms).unsqueeze(1);
    const at::Tensor x = at::randn({5, weight.size(1)});
    const at::Tensor y = site.linear->Linear::forward(x);
    testing::expect_near(y, at::linear(x.to(at::kDouble), weight), 1e-5, site.name);
  }
}

TEST(MegatronAdapter, TheBridgesDoraGoesToPeftAndBack) {
  const TempDir scratch;
  Ministral3 model = without_weights();
  load_adapter(model, kFixtures / "dora");
  save_peft_folder(model, scratch / "out");
  EXPECT_EQ(read_json(scratch / "out" / "adapter_config.json")["use_dora"], true);
  const MegatronCheckpoint stored(kFixtures / "dora");
  const SafetensorsFile file(scratch / "out" / "adapter_model.safetensors");
  EXPECT_EQ(file.tensors().size(), 3u * 7 * 3);
  size_t compared = 0;
  for (const AdapterSite& site : adapter_sites(model)) {
    if (!site.linear->adapter()) continue;
    const auto fused = [&](const std::string& ending) {
      std::vector<at::Tensor> parts;
      for (const std::string& module : site.hf) {
        parts.push_back(file.read("base_model.model." +
                                  spelled_name(module, HfSpelling::kModelFirst) + ending));
      }
      return parts.size() == 1 ? parts[0] : site.linear->layout().fuse(parts, 0);
    };
    const std::string prefix = site.name + ".adapter.";
    EXPECT_TRUE(same_bits(fused(".lora_B.weight"), stored.read(prefix + "linear_out.weight")));
    EXPECT_TRUE(
        same_bits(fused(".lora_magnitude_vector"), stored.read(prefix + "weight_magnitude")));
    for (const std::string& module : site.hf) {
      EXPECT_TRUE(
          same_bits(file.read("base_model.model." + spelled_name(module, HfSpelling::kModelFirst) +
                              ".lora_A.weight"),
                    stored.read(prefix + "linear_in.weight")));
      ++compared;
    }
  }
  EXPECT_EQ(compared, 21u);

  const OpenCheckpoint base("fixtures/hf");
  const auto logits = [&](const fs::path& adapter) {
    const auto adapted = load_model(base, {at::kFloat, at::kCPU});
    load_adapter(*adapted, adapter);
    const at::NoGradGuard no_grad;
    return adapted->logits(ModelInput::make(at::arange(20, 40, at::kLong), {20}));
  };
  testing::expect_near(logits(scratch / "out"), logits(kFixtures / "dora"), 1e-5, "logits");
}

// What the trainer does: adapter tensors and the peft section.
fs::path write_checkpoint(const Ministral3& model, const fs::path& run, const Json& peft,
                          const std::function<void(std::string&)>& rename = {}) {
  MegatronOutput output;
  output.run = run;
  output.iteration = 3;
  output.config = model.config();
  output.run_config = {{"peft", peft}};
  NamedTensors tensors;
  for (const auto& entry : model.named_parameters()) {
    if (!entry.value().requires_grad()) continue;
    tensors.emplace_back(entry.key(), entry.value().detach());
    if (rename) rename(tensors.back().first);
  }
  MegatronWriter writer(output, testing::list_of(tensors));
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
  return run;
}

// The Ministral 3 of fixtures/hf with weights of a kind: DoRA starts from their norms.
Ministral3 with_weights() {
  Ministral3 model(parse_hf_config(read_json("fixtures/hf/config.json"), "config.json"),
                   {at::kBFloat16, at::kCPU});
  const at::NoGradGuard no_grad;
  for (at::Tensor& parameter : model.parameters()) parameter.normal_();
  return model;
}

TEST(MegatronAdapter, OurOwnComeBackToTheBit) {
  const TempDir scratch;
  for (const auto& [scheme, targets] :
       {std::pair{"lora", LoraConfig().target_modules},
        std::pair{"lora", std::vector<std::string>{"q_proj", "v_proj", "o_proj", "up_proj"}},
        std::pair{"dora", LoraConfig().target_modules},
        std::pair{"dora", std::vector<std::string>{"q_proj", "v_proj", "o_proj", "up_proj"}}}) {
    Ministral3 model = with_weights();
    LoraConfig config;
    config.scheme = scheme;
    config.dim = 3;
    config.alpha = 5;
    config.dropout = 0.125;
    config.target_modules = targets;
    config.lora_B_init_method = "normal";
    attach_lora(model, config, 21);
    const fs::path run = write_checkpoint(model, scratch / (scheme + targets[0]),
                                          peft_run_config(lora_config_of(model)));
    Ministral3 again = without_weights();
    load_adapter(again, run);
    size_t compared = 0;
    const auto parameters = again.named_parameters();
    ASSERT_EQ(parameters.size(), model.named_parameters().size());
    for (const auto& entry : model.named_parameters()) {
      if (!entry.value().requires_grad()) continue;
      EXPECT_TRUE(parameters[entry.key()].requires_grad());
      EXPECT_TRUE(same_bits(parameters[entry.key()].detach(), entry.value().detach()))
          << entry.key();
      ++compared;
    }
    EXPECT_EQ(compared, config.is_dora() ? 36u : 24u);
    const LoraConfig told = lora_config_of(again);
    EXPECT_EQ(told.scheme, scheme);
    EXPECT_EQ(told.dim, 3);
    EXPECT_EQ(told.alpha, 5);
    EXPECT_EQ(told.dropout, 0.125);
  }
}

// The names of LoRALinearSplitQKV and LoRALinearSplitFC1UpGate in the bridge's canonical_lora.py.
TEST(MegatronAdapter, CanonicalLoraIsOurFormOfParts) {
  const TempDir scratch;
  Ministral3 model = without_weights();
  LoraConfig config;
  config.dim = 3;
  config.target_modules = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                           "gate_proj", "up_proj", "down_proj"};
  config.lora_B_init_method = "normal";
  attach_lora(model, config, 21);
  Json peft = peft_run_config(config);
  peft["_target_"] = "megatron.bridge.peft.canonical_lora.CanonicalLoRA";
  const fs::path run = write_checkpoint(model, scratch / "run", peft, [](std::string& name) {
    for (const std::string part : {"q", "k", "v", "gate", "up"}) {
      const size_t at = name.find("." + part + "_proj.");
      if (at != std::string::npos) name.replace(at + 1, part.size() + 5, "adapter_" + part);
    }
  });
  EXPECT_TRUE(MegatronCheckpoint(run).tensors().contains(
      "language_model.decoder.layers.1.mlp.linear_fc1.adapter.adapter_gate.linear_in.weight"));
  Ministral3 again = without_weights();
  load_adapter(again, run);
  const auto parameters = again.named_parameters();
  size_t compared = 0;
  for (const auto& entry : model.named_parameters()) {
    if (!entry.value().requires_grad()) continue;
    EXPECT_TRUE(same_bits(parameters[entry.key()].detach(), entry.value().detach()));
    ++compared;
  }
  EXPECT_EQ(compared, 3u * 7 * 2);
}

TEST(MegatronAdapter, RunConfigIsTheBridgesWhereItCanBe) {
  LoraConfig config;
  const Json fused = peft_run_config(config);
  EXPECT_EQ(fused["_target_"], "megatron.bridge.peft.lora.LoRA");
  EXPECT_EQ(fused["alpha"], Json(32));
  EXPECT_TRUE(fused["alpha"].is_number_integer());
  const Json theirs = MegatronCheckpoint(kFixtures / "lora").run_config()["peft"];
  for (const auto& [key, value] : fused.items()) EXPECT_TRUE(theirs.contains(key)) << key;
  config.use_rslora = true;
  config.dim = 16;
  EXPECT_EQ(peft_run_config(config)["alpha"], 32 * 4);
  config.target_modules = {"q_proj"};
  EXPECT_FALSE(peft_run_config(config).contains("_target_"));
  LoraConfig dora;
  dora.scheme = "dora";
  const Json ours = peft_run_config(dora);
  EXPECT_EQ(ours["_target_"], "megatron.bridge.peft.dora.DoRA");
  const Json dora_theirs = MegatronCheckpoint(kFixtures / "dora").run_config()["peft"];
  for (const auto& [key, value] : ours.items()) EXPECT_TRUE(dora_theirs.contains(key)) << key;
}

TEST(MegatronAdapter, RefusesWhatIsNoLora) {
  const auto refused = [](const fs::path& path, const fs::path& hf = "fixtures/hf") {
    Ministral3 model = without_weights(hf);
    return error_of([&] { load_adapter(model, path); });
  };
  expect_mentions(refused(kFixtures / "import"), {"holds a model's weights, not an adapter"});
  // Other sizes, one after the other.
  expect_mentions(refused(kFixtures / "lora", "golden/tied"),
                  {"linear_qkv.adapter.linear_out.weight", "[120, 4]", "[160, 4]"});
}

TEST(MegatronAdapter, RefusesWrongRunConfigs) {
  const TempDir scratch;
  Ministral3 model = without_weights();
  LoraConfig config;
  config.dim = 4;
  attach_lora(model, config, 1);
  const Json good = peft_run_config(lora_config_of(model));
  int count = 0;
  const auto refused = [&](const Json& patch) {
    Json peft = good;
    peft.merge_patch(patch);
    const fs::path run = write_checkpoint(model, scratch / std::to_string(++count), peft);
    Ministral3 target = without_weights();
    return error_of([&] { load_adapter(target, run); });
  };
  expect_mentions(refused({{"_target_", "megatron.bridge.peft.dora.DoRA"}}),
                  {"linear_in.weight has no magnitude", "DoRA"});
  expect_mentions(refused({{"_target_", "megatron.bridge.peft.vera.VeRA"}}),
                  {"VeRA", "lora.LoRA", "dora.DoRA", "CanonicalLoRA"});
  expect_mentions(refused({{"alpha", nullptr}}), {"peft.alpha is missing"});
  expect_mentions(refused({{"dim", "four"}}), {"peft.dim"});
  expect_mentions(refused({{"dim", 0}}), {"peft.dim=0: must be at least 1"});
  expect_mentions(refused({{"dim", 4.5}}), {"peft.dim=4.5: must be a whole number"});
  expect_mentions(refused({{"alpha", std::nan("")}}), {"peft.alpha=nan: must be above 0"});
  expect_mentions(refused({{"alpha", -5}}), {"peft.alpha=-5: must be above 0"});
  expect_mentions(refused({{"dim", 8}}), {"[4, 48]", "[8, 48]"});
  expect_mentions(refused({{"dropout", 2}}), {"peft.dropout=2: must be at least 0 and below 1"});
}

TEST(MegatronAdapter, RefusesTensorsWithoutAPlace) {
  const TempDir scratch;
  Ministral3 model = without_weights();
  LoraConfig config;
  config.dim = 4;
  attach_lora(model, config, 1);
  const fs::path run =
      write_checkpoint(model, scratch / "run", peft_run_config(lora_config_of(model)));
  Json shorter = read_json("fixtures/hf/config.json");
  shorter["text_config"]["num_hidden_layers"] = 2;
  Ministral3 target(parse_hf_config(shorter, "config.json"),
                    {at::kBFloat16, at::Device(at::kMeta)});
  EXPECT_REFUSED(load_adapter(target, run), "8 of 24 adapter tensors", "layers.2.", "and 5 more");
}

}  // namespace
}  // namespace trestle
