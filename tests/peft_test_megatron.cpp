// Adapters of the real Megatron Bridge, and our own written as it writes them.
#include "checkpoint/hf_config.h"
#include "checkpoint/megatron_writer.h"
#include "checkpoint_hf_testing.h"
#include "golden.h"
#include "peft/lora.h"
#include "peft/megatron_adapter.h"
#include "peft/peft_folder.h"

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

// What the trainer does: adapter tensors and the peft section.
fs::path write_checkpoint(const Ministral3& model, const fs::path& run, const Json& peft) {
  MegatronOutput output;
  output.run = run;
  output.iteration = 3;
  output.config = model.config();
  output.run_config = {{"peft", peft}};
  NamedTensors tensors;
  for (const auto& entry : model.named_parameters()) {
    if (entry.value().requires_grad()) tensors.emplace_back(entry.key(), entry.value().detach());
  }
  MegatronWriter writer(output, testing::list_of(tensors));
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
  return run;
}

TEST(MegatronAdapter, OurOwnComeBackToTheBit) {
  const TempDir scratch;
  for (const auto& targets :
       {LoraConfig().target_modules, {"q_proj", "v_proj", "o_proj", "up_proj"}}) {
    Ministral3 model = without_weights();
    LoraConfig config;
    config.dim = 3;
    config.alpha = 5;
    config.dropout = 0.125;
    config.target_modules = targets;
    config.lora_B_init_method = "normal";
    attach_lora(model, config, 21);
    const fs::path run =
        write_checkpoint(model, scratch / targets[0], peft_run_config(lora_config_of(model)));
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
    EXPECT_EQ(compared, 24u);
    const LoraConfig told = lora_config_of(again);
    EXPECT_EQ(told.dim, 3);
    EXPECT_EQ(told.alpha, 5);
    EXPECT_EQ(told.dropout, 0.125);
  }
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
}

TEST(MegatronAdapter, RefusesWhatIsNoLora) {
  const auto refused = [](const fs::path& path, const fs::path& hf = "fixtures/hf") {
    Ministral3 model = without_weights(hf);
    return error_of([&] { load_adapter(model, path); });
  };
  expect_mentions(refused(kFixtures / "dora"), {"DoRA adapters are not supported yet"});
  expect_mentions(refused(kFixtures / "import"), {"holds a model's weights, not an adapter"});
  // Other sizes, one after the other.
  expect_mentions(refused(kFixtures / "lora", "golden/model/tied"),
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
  expect_mentions(refused({{"_target_", "megatron.bridge.peft.dora.DoRA"}}), {"DoRA", "lora.LoRA"});
  expect_mentions(refused({{"alpha", nullptr}}), {"peft.alpha is missing"});
  expect_mentions(refused({{"dim", "four"}}), {"peft.dim"});
  expect_mentions(refused({{"dim", 0}}), {"dim 0"});
  expect_mentions(refused({{"dim", 8}}), {"[4, 48]", "[8, 48]"});
  expect_mentions(refused({{"dropout", 2}}), {"dropout 2"});
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
  expect_mentions(error_of([&] { load_adapter(target, run); }),
                  {"8 of 24 adapter tensors", "layers.2.", "and 5 more"});
}

}  // namespace
}  // namespace trestle
