// PEFT folders: what peft computed with its own, every spelling of names, the way back to disk, and
// folders that must not load.
#include <cstdlib>
#include <set>

#include "checkpoint_hf_testing.h"
#include "golden.h"
#include "peft/lora.h"
#include "peft/peft_folder.h"
#include "peft/sites.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;
using testing::expect_near;
using testing::Golden;
using testing::NamedTensors;
using testing::read_safetensors;
using testing::same_bits;
using testing::TempDir;
using testing::write_safetensors;

const fs::path kPeft = "golden/model/tied/lora";
const fs::path kShared = "golden/model/tied/lora_shared";
constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model.safetensors";

// A copy of kPeft whose config and tensors went through `edit`.
fs::path variant(const TempDir& scratch, const std::function<void(NamedTensors&, Json&)>& edit) {
  static int count = 0;
  const fs::path directory = scratch / fmt::format("variant{}", ++count);
  NamedTensors tensors = read_safetensors(kPeft / kWeights);
  Json config = read_json(kPeft / kConfig);
  edit(tensors, config);
  fs::create_directories(directory);
  write_json(directory / kConfig, config);
  write_safetensors(directory / kWeights, tensors);
  return directory;
}

fs::path with_prefix(const TempDir& scratch, const std::string& prefix) {
  const std::string old = "base_model.model.model.language_model.";
  return variant(scratch, [&](NamedTensors& tensors, Json&) {
    for (auto& [name, tensor] : tensors) name = prefix + name.substr(old.size());
  });
}

at::Tensor logits_with(const fs::path& adapter) {
  const Golden golden("tied");
  const auto model = golden.model();
  model->eval();
  load_adapter(*model, adapter);
  const at::NoGradGuard no_grad;
  return model->logits(golden.input());
}

TEST(PeftFolder, LogitsArePefts) {
  for (const char* form : {"lora", "lora_shared"}) {
    const Golden golden(std::string("tied/") + form);
    const auto model = Golden("tied").model();
    const AdapterSummary summary = load_adapter(*model, golden.directory);
    EXPECT_EQ(summary.modules, 12);
    EXPECT_EQ(adapter_sites(*model)[0].linear->adapter()->pairs().size(), 3u);
    const at::NoGradGuard no_grad;
    expect_near(model->logits(Golden("tied").input()), golden["logits"], 1e-4, form);
  }
}

TEST(PeftFolder, EverySpellingLoadsToTheSame) {
  const TempDir scratch;
  const at::Tensor wanted = logits_with(kPeft);
  for (const char* prefix :
       {"base_model.model.model.language_model.", "base_model.model.language_model.model.",
        "base_model.model.model.", "model.language_model.", "language_model.model.", "model."}) {
    EXPECT_TRUE(at::equal(logits_with(with_prefix(scratch, prefix)), wanted)) << prefix;
  }
  expect_mentions(error_of([&] { logits_with(with_prefix(scratch, "base_model.model.gpt.")); }),
                  {"none of its 42 tensors", "base_model.model.gpt.layers.0.mlp.down_proj"});
}

TEST(PeftFolder, TextOnlyModelsTakeTheSameNames) {
  const TempDir scratch;
  // The text golden has the language tower's shapes of the tied one.
  const Golden golden("text");
  const auto model = golden.model();
  load_adapter(*model, kPeft);
  save_peft_folder(*model, scratch / "out");
  const SafetensorsFile file(scratch / "out" / kWeights);
  EXPECT_EQ(file.tensors().size(), 42u);
  EXPECT_TRUE(
      file.tensors().contains("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"));
}

TEST(PeftFolder, SavedAdaptersComeBackToTheBit) {
  const TempDir scratch;
  const auto model = Golden("tied").model();
  load_adapter(*model, kPeft);
  save_peft_folder(*model, scratch / "again", {.base_model = "base"});
  const NamedTensors wanted = read_safetensors(kPeft / kWeights);
  const NamedTensors got = read_safetensors(scratch / "again" / kWeights);
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].first, wanted[i].first);
    EXPECT_TRUE(same_bits(got[i].second, wanted[i].second)) << got[i].first;
  }
  const Json config = read_json(scratch / "again" / kConfig);
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], Json(8));
  EXPECT_TRUE(config["lora_alpha"].is_number_integer());
  EXPECT_EQ(config["base_model_name_or_path"], "base");
  // Whole names: "q_proj" alone would match the vision tower's too.
  EXPECT_EQ(config["target_modules"].size(), 21u);
  for (const Json& target : config["target_modules"]) {
    EXPECT_TRUE(target.get<std::string>().starts_with("model.language_model.layers.")) << target;
  }
  EXPECT_TRUE(at::equal(logits_with(scratch / "again"), logits_with(kPeft)));
}

TEST(PeftFolder, MegatronsFormGoesOutWithItsSharedA) {
  const TempDir scratch;
  const Golden golden("tied");
  const auto model = golden.model();
  LoraConfig config;
  config.dim = 4;
  config.lora_B_init_method = "normal";
  attach_lora(*model, config, 11);
  save_peft_folder(*model, scratch / "out", {.spelling = HfSpelling::kLanguageModelFirst});
  const SafetensorsFile file(scratch / "out" / kWeights);
  const std::string prefix = "base_model.model.language_model.model.layers.1.self_attn.";
  const at::Tensor a = file.read(prefix + "q_proj.lora_A.weight");
  EXPECT_TRUE(same_bits(a, file.read(prefix + "k_proj.lora_A.weight")));
  EXPECT_TRUE(same_bits(a, file.read(prefix + "v_proj.lora_A.weight")));
  const at::NoGradGuard no_grad;
  expect_near(logits_with(scratch / "out"), model->logits(golden.input()), 1e-5, "PEFT's form");
}

TEST(PeftFolder, PartOfTheLayersAndParts) {
  const TempDir scratch;
  const fs::path partial = variant(scratch, [](NamedTensors& tensors, Json&) {
    std::erase_if(tensors, [](const auto& each) {
      return each.first.find("layers.1.") == std::string::npos ||
             each.first.find("k_proj") != std::string::npos;
    });
  });
  const auto model = Golden("tied").model();
  EXPECT_EQ(load_adapter(*model, partial).modules, 4);
  save_peft_folder(*model, scratch / "out");
  EXPECT_EQ(read_safetensors(scratch / "out" / kWeights).size(), 12u);
  EXPECT_TRUE(at::equal(logits_with(scratch / "out"), logits_with(partial)));
}

TEST(PeftFolder, RankStabilisedScaleIsHonoured) {
  const TempDir scratch;
  // 8 / 4 and 4 / sqrt(4) are one scale.
  const fs::path same = variant(scratch, [](NamedTensors&, Json& config) {
    config["use_rslora"] = true;
    config["lora_alpha"] = 4;
  });
  EXPECT_TRUE(at::equal(logits_with(same), logits_with(kPeft)));
}

TEST(PeftFolder, RefusesOptionsByName) {
  const TempDir scratch;
  const auto refused = [&](const std::string& key, const Json& value) {
    const fs::path folder =
        variant(scratch, [&](NamedTensors&, Json& config) { config[key] = value; });
    const std::string message = error_of([&] { logits_with(folder); });
    EXPECT_NE(message.find(kConfig), std::string::npos) << message;
    return message;
  };
  expect_mentions(refused("use_dora", true), {"DoRA adapters are not supported yet"});
  expect_mentions(refused("peft_type", "LOHA"), {"peft_type", "LOHA", "LORA"});
  expect_mentions(refused("bias", "all"), {"bias", "all"});
  expect_mentions(refused("modules_to_save", {"lm_head"}), {"modules_to_save", "lm_head"});
  expect_mentions(refused("rank_pattern", {{"q_proj", 8}}), {"rank_pattern", "q_proj"});
  expect_mentions(refused("alpha_pattern", {{"q_proj", 8}}), {"alpha_pattern"});
  expect_mentions(refused("init_lora_weights", "pissa"), {"init_lora_weights", "pissa"});
  expect_mentions(refused("fan_in_fan_out", true), {"fan_in_fan_out"});
  expect_mentions(refused("an_option_of_tomorrow", 3), {"an_option_of_tomorrow"});
  expect_mentions(refused("r", "four"), {"r is \"four\""});
  expect_mentions(refused("r", 0), {"r is 0"});
  expect_mentions(refused("r", 1e300), {"r is"});
  expect_mentions(refused("lora_dropout", -1), {"lora_dropout"});
  const fs::path list = variant(scratch, [](NamedTensors&, Json& config) { config = {1}; });
  expect_mentions(error_of([&] { logits_with(list); }), {kConfig});
}

TEST(PeftFolder, RefusesTensorsThatDoNotFit) {
  const TempDir scratch;
  const auto refused = [&](const std::function<void(NamedTensors&, Json&)>& edit) {
    const fs::path folder = variant(scratch, edit);
    return error_of([&] { logits_with(folder); });
  };
  const auto take = [](NamedTensors & tensors, const std::string& part) -> auto& {
    return *std::ranges::find_if(
        tensors, [&](const auto& each) { return each.first.find(part) != std::string::npos; });
  };
  expect_mentions(refused([&](NamedTensors& tensors, Json&) {
                    take(tensors, "q_proj.lora_A").first =
                        "base_model.model.model.vision_tower.transformer.layers.0.attention.q_proj."
                        "lora_A.weight";
                  }),
                  {"1 of 42 tensors", "vision_tower"});
  expect_mentions(refused([&](NamedTensors& tensors, Json&) { tensors.erase(tensors.begin()); }),
                  {"layers.0.mlp.down_proj.lora_B.weight", "no partner"});
  expect_mentions(refused([&](NamedTensors& tensors, Json& config) {
                    std::erase_if(tensors, [](const auto& each) {
                      return each.first.find("layers.2.") != std::string::npos;
                    });
                    config["target_modules"] = {"q_proj", "up_proj"};
                  }),
                  {"target_modules", "2 modules", "model.layers.2.self_attn.q_proj"});
  expect_mentions(refused([&](NamedTensors& tensors, Json&) {
                    at::Tensor& tensor = take(tensors, "q_proj.lora_B").second;
                    tensor = tensor.narrow(0, 0, 90).clone();
                  }),
                  {"q_proj.lora_B.weight", "[90, 4]", "[96, 4]"});
  expect_mentions(refused([&](NamedTensors&, Json& config) { config["r"] = 8; }),
                  {"[4, 48]", "[8, 48]"});
  expect_mentions(refused([&](NamedTensors& tensors, Json&) {
                    at::Tensor& tensor = take(tensors, "q_proj.lora_A").second;
                    tensor = tensor.to(at::kInt);
                  }),
                  {"q_proj.lora_A.weight", "I32"});
  expect_mentions(refused([&](NamedTensors& tensors, Json&) {
                    tensors.emplace_back("model.layers.0.mlp.up_proj.lora_A.weight",
                                         take(tensors, "up_proj.lora_A").second);
                  }),
                  {"are one tensor"});
  expect_mentions(refused([&](NamedTensors& tensors, Json&) {
                    tensors.emplace_back(
                        "base_model.model.model.language_model.layers.0.mlp."
                        "up_proj.lora_magnitude_vector",
                        at::ones({80}));
                  }),
                  {"DoRA"});
  expect_mentions(refused([&](NamedTensors& tensors, Json&) { tensors.clear(); }),
                  {"none of its 0 tensors"});
}

TEST(PeftFolder, ARefusedAdapterLeavesTheModelAlone) {
  const TempDir scratch;
  const fs::path folder = variant(scratch, [](NamedTensors& tensors, Json&) {
    tensors.back().second = at::zeros({1, 1});
  });
  const auto model = Golden("tied").model();
  error_of([&] { load_adapter(*model, folder); });
  EXPECT_EQ(merge_adapters(*model), 0);
  EXPECT_TRUE(model->parameters()[0].requires_grad());
}

TEST(PeftFolder, RefusesFilesThatAreNotThere) {
  const TempDir scratch;
  expect_mentions(error_of([&] { logits_with(scratch / "absent"); }), {"absent", "does not exist"});
  fs::create_directories(scratch / "empty");
  expect_mentions(error_of([&] { logits_with(scratch / "empty"); }), {"holds no adapter", kConfig});
  const fs::path folder = variant(scratch, [](NamedTensors&, Json&) {});
  fs::resize_file(folder / kWeights, fs::file_size(folder / kWeights) - 1);
  expect_mentions(error_of([&] { logits_with(folder); }), {kWeights});
  fs::remove(folder / kWeights);
  expect_mentions(error_of([&] { logits_with(folder); }), {kWeights});
  write_text(folder / "adapter_model.bin", "x");
  expect_mentions(error_of([&] { logits_with(folder); }), {"adapter_model.bin", "pickle"});
}

TEST(PeftFolder, WritesWholeOrNothing) {
  const TempDir scratch;
  const auto model = Golden("tied").model();
  load_adapter(*model, kPeft);
  write_text(scratch / "full" / "notes.txt", "mine");
  expect_mentions(error_of([&] { save_peft_folder(*model, scratch / "full"); }), {"not empty"});
  EXPECT_EQ(read_text(scratch / "full" / "notes.txt"), "mine");
  write_text(scratch / "file", "x");
  error_of<MachineError>([&] { save_peft_folder(*model, scratch / "file" / "adapter"); });
  save_peft_folder(*model, scratch / "full", {.replace = true});
  EXPECT_FALSE(fs::exists(scratch / "full" / "notes.txt"));
  std::set<std::string> entries;
  for (const auto& entry : fs::directory_iterator(scratch.path())) {
    entries.insert(entry.path().filename().string());
  }
  EXPECT_EQ(entries, (std::set<std::string>{"file", "full"}));
}

// Not a check of its own: writes adapters and their logits for tests/interop/test_peft.py.
TEST(PeftFolder, ForPeftItself) {
  const char* target = std::getenv("TRESTLE_PEFT_OUT");
  if (target == nullptr) GTEST_SKIP() << "TRESTLE_PEFT_OUT names no directory";
  const std::vector<std::pair<std::string, std::vector<std::string>>> forms = {
      {"fused", LoraConfig().target_modules}, {"parts", {"q_proj", "v_proj", "down_proj"}}};
  for (const char* name : {"tied", "text"}) {
    for (const auto& [form, targets] : forms) {
      const Golden golden(name);
      const auto model = golden.model();
      LoraConfig config;
      config.dim = 5;
      config.alpha = 7;
      config.target_modules = targets;
      config.lora_B_init_method = "normal";
      attach_lora(*model, config, 17);
      const fs::path folder = fs::path(target) / name / form;
      save_peft_folder(*model, folder);
      const at::NoGradGuard no_grad;
      write_safetensors(folder / "logits.safetensors",
                        {{"logits", model->logits(golden.input()).contiguous()}});
    }
  }
}

}  // namespace
}  // namespace trestle
