// PEFT folders: what peft computed with its own, every spelling of names, the way back to disk, and
// folders that must not load.
#include <cstdlib>
#include <set>

#include "golden.h"
#include "hf_testing.h"
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

const fs::path kPeft = "golden/tied/lora";
const fs::path kDora = "golden/tied/dora";
constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model.safetensors";

const Json kParts = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

// A copy of `source` whose config and tensors went through `edit`.
fs::path variant(const TempDir& scratch, const std::function<void(NamedTensors&, Json&)>& edit,
                 const fs::path& source = kPeft) {
  static int count = 0;
  const fs::path directory = scratch / fmt::format("variant{}", ++count);
  testing::write_variant(source, directory, edit, kWeights, kConfig);
  return directory;
}

fs::path with_prefix(const TempDir& scratch, const std::string& prefix, const fs::path& source) {
  const std::string old = "base_model.model.model.language_model.";
  return variant(
      scratch,
      [&](NamedTensors& tensors, Json&) {
        for (auto& [name, tensor] : tensors) name = prefix + name.substr(old.size());
      },
      source);
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
  for (const char* form : {"lora", "lora_shared", "dora"}) {
    const Golden golden(std::string("tied/") + form);
    const auto model = Golden("tied").model();
    const AdapterSummary summary = load_adapter(*model, golden.directory);
    EXPECT_EQ(summary.modules, 12);
    EXPECT_EQ(adapter_sites(*model)[0].linear->adapter()->pairs().size(), 3u);
    const at::NoGradGuard no_grad;
    expect_near(model->logits(Golden("tied").input()), golden["logits"], 1e-4, form);
  }
}

// users' pain point 5: an adapter that does nothing.
TEST(PeftFolder, EverySpellingLoadsToTheSame) {
  const TempDir scratch;
  for (const fs::path& source : {kPeft, kDora}) {
    const at::Tensor wanted = logits_with(source);
    for (const char* prefix :
         {"base_model.model.model.language_model.", "base_model.model.language_model.model.",
          "base_model.model.model.", "model.language_model.", "language_model.model.", "model."}) {
      EXPECT_TRUE(at::equal(logits_with(with_prefix(scratch, prefix, source)), wanted)) << prefix;
    }
  }
  const fs::path gpt = with_prefix(scratch, "base_model.model.gpt.", kPeft);
  EXPECT_REFUSED(logits_with(gpt), "none of its 42 tensors",
                 "base_model.model.gpt.layers.0.mlp.down_proj");
}

// users' pain point 21: what DoRA costs.
TEST(PeftFolder, MagnitudesUnderBothNames) {
  const TempDir scratch;
  const fs::path longer = variant(
      scratch,
      [](NamedTensors& tensors, Json&) {
        for (auto& [name, tensor] : tensors) {
          if (name.ends_with("lora_magnitude_vector")) name += ".weight";
        }
      },
      kDora);
  EXPECT_TRUE(at::equal(logits_with(longer), logits_with(kDora)));
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
  for (const fs::path& source : {kPeft, kDora}) {
    const fs::path again = scratch / source.filename();
    const auto model = Golden("tied").model();
    load_adapter(*model, source);
    save_peft_folder(*model, again, {.base_model = "base"});
    const NamedTensors wanted = read_safetensors(source / kWeights);
    const NamedTensors got = read_safetensors(again / kWeights);
    ASSERT_EQ(got.size(), wanted.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].first, wanted[i].first);
      EXPECT_TRUE(same_bits(got[i].second, wanted[i].second)) << got[i].first;
    }
    const Json config = read_json(again / kConfig);
    EXPECT_EQ(config["r"], 4);
    EXPECT_EQ(config["lora_alpha"], Json(8));
    EXPECT_TRUE(config["lora_alpha"].is_number_integer());
    EXPECT_EQ(config["use_dora"], source == kDora);
    EXPECT_EQ(config["base_model_name_or_path"], "base");
    // Whole names: "q_proj" alone would match the vision tower's too.
    EXPECT_EQ(config["target_modules"].size(), 21u);
    for (const Json& target : config["target_modules"]) {
      EXPECT_TRUE(target.get<std::string>().starts_with("model.language_model.layers.")) << target;
    }
    EXPECT_TRUE(at::equal(logits_with(again), logits_with(source)));
  }
}

// Cuts the tensors of every `part` to rank 2.
void cut_rank(NamedTensors& tensors, const std::string& part) {
  for (auto& [name, tensor] : tensors) {
    if (name.find(part + ".lora_A") != std::string::npos) tensor = tensor.narrow(0, 0, 2).clone();
    if (name.find(part + ".lora_B") != std::string::npos) tensor = tensor.narrow(1, 0, 2).clone();
  }
}

// The same update at full rank: zeros for what cut_rank takes away, and B scaled for another alpha.
void pad_rank(NamedTensors& tensors, const std::string& part, double factor) {
  for (auto& [name, tensor] : tensors) {
    if (name.find(part + ".lora_B") == std::string::npos) continue;
    tensor = tensor * factor;
    tensor.narrow(1, 2, 2).zero_();
  }
}

TEST(PeftFolder, RanksAndAlphasByModule) {
  const TempDir scratch;
  for (const bool rslora : {false, true}) {
    const fs::path patterns = variant(scratch, [&](NamedTensors& tensors, Json& config) {
      cut_rank(tensors, "q_proj");
      config["use_rslora"] = rslora;
      config["rank_pattern"] = {{"q_proj", 2}};
      config["alpha_pattern"] = {{"self_attn.q_proj", 6},
                                 {"^language_model.model.layers.1.mlp.up_proj", 12},
                                 {"^up_proj", 99}};
    });
    const fs::path plain = variant(scratch, [&](NamedTensors& tensors, Json& config) {
      config["use_rslora"] = rslora;
      // (6 / 2) / (8 / 4), or with the roots of 2 and 4.
      pad_rank(tensors, "q_proj", rslora ? 6 / std::sqrt(2.0) / 4 : 1.5);
      for (auto& [name, tensor] : tensors) {
        if (name.find("1.mlp.up_proj.lora_B") != std::string::npos) tensor = tensor * 1.5;
      }
    });
    const at::Tensor wanted = logits_with(plain);
    EXPECT_GT((wanted - logits_with(kPeft)).abs().max().item<double>(), 0.1);
    expect_near(logits_with(patterns), wanted, 1e-4, "by module");

    const auto model = Golden("tied").model();
    load_adapter(*model, patterns);
    const fs::path again = scratch / (rslora ? "rslora" : "plain");
    save_peft_folder(*model, again);
    EXPECT_EQ(read_json(again / kConfig)["alpha_pattern"].size(), 4u);  // 3 layers' q and one up
    EXPECT_TRUE(at::equal(logits_with(again), logits_with(patterns)));
    EXPECT_REFUSED(lora_config_of(*model), "rank 2", "rank 4");
  }
}

// users' pain point 3: what was trained cannot be exported.
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
  const fs::path second = variant(scratch, [](NamedTensors& tensors, Json& config) {
    std::erase_if(tensors, [](const auto& each) {
      return each.first.find("layers.1.") == std::string::npos ||
             each.first.find("k_proj") != std::string::npos;
    });
    config["target_modules"] = kParts;
    config["exclude_modules"] = {"k_proj"};
    config["layers_to_transform"] = 1;
  });
  EXPECT_EQ(load_adapter(*Golden("tied").model(), second).modules, 4);
  const auto model = Golden("tied").model();
  EXPECT_EQ(load_adapter(*model, second).modules, 4);
  save_peft_folder(*model, scratch / "out");
  EXPECT_EQ(read_safetensors(scratch / "out" / kWeights).size(), 12u);
  EXPECT_TRUE(at::equal(logits_with(scratch / "out"), logits_with(second)));
}

// What an expression chooses must be there, as what a list names must.
TEST(PeftFolder, AnExpressionIsHeldToTheFile) {
  const TempDir scratch;
  // Layer 1 without k_proj, under some target_modules and exclude_modules.
  const auto partial = [&](const Json& targets, const Json& excluded = nullptr) {
    return variant(scratch, [&](NamedTensors& tensors, Json& config) {
      std::erase_if(tensors, [](const auto& each) {
        return each.first.find("layers.1.") == std::string::npos ||
               each.first.find("k_proj") != std::string::npos;
      });
      config["target_modules"] = targets;
      config["exclude_modules"] = excluded;
    });
  };
  const std::string all =
      R"(.*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))";
  const std::string of_one =
      R"(.*language_model\.layers\.1\..*\.([qvo]_proj|(?:gate|up|down)_proj))";
  const std::string every =
      R"((?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))";
  for (const auto& [targets, excluded] :
       std::vector<std::pair<Json, Json>>{{of_one, nullptr},
                                          {all, R"(.*(layers\.[02]\.|k_proj).*)"},
                                          {kParts, R"(.*(layers\.[02]\.|k_proj).*)"},
                                          {of_one, {"vision_tower"}}}) {
    EXPECT_EQ(load_adapter(*Golden("tied").model(), partial(targets, excluded)).modules, 4)
        << targets << excluded;
  }
  const auto refused = [&](const Json& targets, const Json& excluded = nullptr) {
    return error_of([&] { load_adapter(*Golden("tied").model(), partial(targets, excluded)); });
  };
  expect_mentions(refused(all), {"15 modules more in target_modules", "model.layers.0.",
                                 "the adapter is incomplete"});
  EXPECT_EQ(refused(all).substr(refused(all).find(": ")),
            refused(kParts).substr(refused(kParts).find(": ")));
  expect_mentions(refused(every), {"12 modules more", "model.layers.0."});
  expect_mentions(refused(all, R"(.*layers\.0.*)"),
                  {"8 modules more", "model.layers.1.self_attn.k_proj"});
  expect_mentions(refused(R"(.*layers\.1\..*q_proj)"),
                  {"5 modules of", "model.layers.1.mlp.down_proj"});
  // Python's (?a) and what runs too long are no reason to refuse an adapter.
  for (const char* odd : {R"((((((a*)*)*)*)*)*.*[)", R"((?:(?:(?:.+)+)+)+[!?])"}) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(load_adapter(*Golden("tied").model(), partial(odd)).modules, 4);
    EXPECT_NE(::testing::internal::GetCapturedStderr().find("cannot be read here"),
              std::string::npos)
        << odd;
  }
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
    expect_mentions(message, {kConfig});
    return message;
  };
  expect_mentions(refused("peft_type", "LOHA"), {"peft_type", "LOHA", "LORA"});
  expect_mentions(refused("bias", "all"), {"bias", "all"});
  expect_mentions(refused("modules_to_save", {"lm_head"}), {"modules_to_save", "lm_head"});
  expect_mentions(refused("rank_pattern", 8), {"rank_pattern"});
  expect_mentions(refused("alpha_pattern", {{"(q|k)_proj", 8}}), {"alpha_pattern", "(q|k)_proj"});
  expect_mentions(refused("alpha_pattern", {{"q_proj", "8"}}), {"alpha_pattern", "q_proj"});
  expect_mentions(refused("init_lora_weights", "pissa"), {"init_lora_weights", "pissa"});
  expect_mentions(refused("use_rslora", "true"), {"use_rslora is \"true\""});
  expect_mentions(refused("use_dora", 1), {"use_dora is 1"});
  expect_mentions(refused("target_modules", 5), {"target_modules is 5"});
  expect_mentions(refused("target_modules", {5}), {"target_modules is [5]"});
  expect_mentions(refused("exclude_modules", 7), {"exclude_modules is 7"});
  expect_mentions(refused("layers_to_transform", "all"), {"layers_to_transform", "all"});
  expect_mentions(refused("fan_in_fan_out", true), {"fan_in_fan_out"});
  expect_mentions(refused("an_option_of_tomorrow", 3), {"an_option_of_tomorrow"});
  expect_mentions(refused("r", "four"), {"r is \"four\""});
  // The bounds of peft.dim, peft.alpha and peft.dropout.
  for (const Json& value : {Json(0), Json(-4), Json(1e300), Json(1e7)}) {
    expect_mentions(refused("r", value), {"r=", "must be at least 1 and at most 1000000"});
    expect_mentions(refused("rank_pattern", {{"q_proj", value}}), {"rank_pattern.q_proj=", "must"});
  }
  expect_mentions(refused("r", 4.5), {"r=4.5: must be a whole number"});
  for (const Json& value : {Json(0), Json(-5), Json(1e300)}) {
    expect_mentions(refused("lora_alpha", value), {"lora_alpha=", "must be above 0 and at most"});
    expect_mentions(refused("alpha_pattern", {{"q_proj", value}}),
                    {"alpha_pattern.q_proj=", "must be above 0"});
  }
  for (const Json& value : {Json(-1), Json(1), Json(2.5)}) {
    expect_mentions(refused("lora_dropout", value),
                    {"lora_dropout=", "must be at least 0 and below 1"});
  }
  expect_mentions(refused("rank_pattern", {{"q_proj", "4"}}), {"rank_pattern.q_proj is \"4\""});
  const fs::path list = variant(scratch, [](NamedTensors&, Json& config) { config = {1}; });
  EXPECT_REFUSED(logits_with(list), kConfig);
}

TEST(PeftFolder, RefusesHalfADora) {
  const TempDir scratch;
  const auto refused = [&](const fs::path& source,
                           const std::function<void(NamedTensors&, Json&)>& edit) {
    const fs::path folder = variant(scratch, edit, source);
    return error_of([&] { logits_with(folder); });
  };
  const std::string q = "layers.0.self_attn.q_proj.lora_magnitude_vector";
  const auto find_q = [&](NamedTensors& tensors) {
    return std::ranges::find_if(tensors, [&](const auto& each) { return each.first.ends_with(q); });
  };
  expect_mentions(refused(kPeft, [](NamedTensors&, Json& config) { config["use_dora"] = true; }),
                  {"lora_A.weight has no magnitude", "DoRA"});
  expect_mentions(refused(kDora, [](NamedTensors&, Json& config) { config["use_dora"] = false; }),
                  {"lora_magnitude_vector is DoRA's", "LoRA"});
  expect_mentions(
      refused(kDora, [&](NamedTensors& tensors, Json&) { tensors.erase(find_q(tensors)); }),
      {"layers.0.self_attn.q_proj", "has no magnitude"});
  expect_mentions(refused(kDora,
                          [&](NamedTensors& tensors, Json&) {
                            find_q(tensors)->second = at::ones({1, 96});
                          }),
                  {q, "[1, 96]", "[96]"});
  expect_mentions(refused(kDora,
                          [&](NamedTensors& tensors, Json&) {
                            tensors.emplace_back(find_q(tensors)->first + ".weight",
                                                 at::ones({96}));
                          }),
                  {q, "are one tensor"});
  expect_mentions(refused(kDora,
                          [&](NamedTensors& tensors, Json&) {
                            std::erase_if(tensors, [](const auto& each) {
                              return each.first.find("q_proj.lora_A") != std::string::npos ||
                                     each.first.find("q_proj.lora_B") != std::string::npos;
                            });
                          }),
                  {"q_proj.lora_magnitude_vector", "no partner"});
}

// users' pain point 5: an adapter that does nothing.
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
                        "base_model.model.model.vision_tower.patch_conv.lora_A.weight";
                  }),
                  {"1 of 42 tensors", "vision_tower"});
  expect_mentions(refused([&](NamedTensors& tensors, Json&) { tensors.erase(tensors.begin()); }),
                  {"layers.0.mlp.down_proj.lora_B.weight", "no partner"});
  expect_mentions(refused([&](NamedTensors& tensors, Json& config) {
                    std::erase_if(tensors, [](const auto& each) {
                      return each.first.find("layers.2.") != std::string::npos;
                    });
                    config["target_modules"] = kParts;
                  }),
                  {"7 modules more in target_modules", "model.layers.2."});
  // What the file's own words leave out: peft makes no such modules and drops their tensors.
  expect_mentions(refused([&](NamedTensors&, Json& config) {
                    config["target_modules"] = {"q_proj", "up_proj"};
                  }),
                  {"15 modules", "target_modules", "model.layers.0.mlp.down_proj"});
  expect_mentions(
      refused([&](NamedTensors&, Json& config) { config["exclude_modules"] = {"o_proj"}; }),
      {"3 modules", "exclude_modules", "model.layers.0.self_attn.o_proj"});
  for (const Json& layers : {Json(1), Json({1, 7})}) {
    expect_mentions(refused([&](NamedTensors&, Json& config) {
                      config["layers_to_transform"] = layers;
                      config["layers_pattern"] = layers.is_array() ? Json("layers") : Json();
                    }),
                    {"14 modules", "layers_to_transform", "model.layers.0.mlp.down_proj"});
  }
  expect_mentions(refused([&](NamedTensors&, Json& config) {
                    config["rank_pattern"] = {{"1.self_attn.q_proj", 2}};
                  }),
                  {"layers.1.self_attn.q_proj.lora_A.weight", "[4, 48]", "[2, 48]"});
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
  expect_mentions(refused([&](NamedTensors& tensors, Json&) { tensors.clear(); }),
                  {"none of its 0 tensors"});
}

// users' pain point 5: an adapter that does nothing.
TEST(PeftFolder, ARefusedAdapterLeavesTheModelAlone) {
  const TempDir scratch;
  const fs::path folder = variant(scratch, [](NamedTensors& tensors, Json&) {
    tensors.back().second = at::zeros({1, 1});
  });
  const auto model = Golden("tied").model();
  EXPECT_REFUSED(load_adapter(*model, folder), "[1, 1]");
  EXPECT_EQ(merge_adapters(*model), 0);
  EXPECT_TRUE(model->parameters()[0].requires_grad());
}

TEST(PeftFolder, RefusesFilesThatAreNotThere) {
  const TempDir scratch;
  EXPECT_REFUSED(logits_with(scratch / "absent"), "absent", "does not exist");
  fs::create_directories(scratch / "empty");
  EXPECT_REFUSED(logits_with(scratch / "empty"), "holds no adapter", kConfig);
  const fs::path folder = variant(scratch, [](NamedTensors&, Json&) {});
  fs::resize_file(folder / kWeights, fs::file_size(folder / kWeights) - 1);
  EXPECT_REFUSED(logits_with(folder), kWeights);
  fs::remove(folder / kWeights);
  const std::string absent = error_of([&] { logits_with(folder); });
  expect_mentions(absent, {kWeights});
  EXPECT_EQ(absent.find("pickle"), std::string::npos) << absent;
  write_text(folder / "adapter_model.bin", "x");
  EXPECT_REFUSED(logits_with(folder), "adapter_model.bin", "pickle");
}

TEST(PeftFolder, WritesWholeOrNothing) {
  const TempDir scratch;
  const auto model = Golden("tied").model();
  load_adapter(*model, kPeft);
  write_text(scratch / "full" / "notes.txt", "mine");
  EXPECT_REFUSED(save_peft_folder(*model, scratch / "full"), "not empty");
  EXPECT_EQ(read_text(scratch / "full" / "notes.txt"), "mine");
  write_text(scratch / "file", "x");
  expect_mentions(
      error_of<MachineError>([&] { save_peft_folder(*model, scratch / "file" / "adapter"); }),
      {"cannot write " + (scratch / "file" / "adapter").string()});
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
      {"fused", LoraConfig().target_modules},
      {"parts", {"q_proj", "v_proj", "down_proj"}},
      {"everywhere", {"lm.*", "vision.*", "projector.*"}},
      {"vision", {"vision.linear_qkv", "projector.linear_2"}}};
  for (const char* name : {"tied", "text"}) {
    for (const char* scheme : {"lora", "dora"}) {
      for (const auto& [form, targets] : forms) {
        const Golden golden(name);
        const bool vision = form == "everywhere" || form == "vision";
        if (vision && !OpenCheckpoint(golden.directory).config().vision) continue;
        const auto model = golden.model();
        LoraConfig config;
        config.scheme = scheme;
        config.dim = 5;
        config.alpha = 7;
        config.target_modules = targets;
        config.lora_B_init_method = "normal";
        attach_lora(*model, config, 17);
        const at::NoGradGuard no_grad;
        for (const auto& entry : model->named_parameters()) {
          if (entry.key().ends_with("weight_magnitude")) {
            at::Tensor magnitude = entry.value();
            magnitude.mul_(1 + 0.4 * at::rand(magnitude.sizes()));
          }
        }
        const fs::path folder = fs::path(target) / name / (form + "_" + scheme);
        save_peft_folder(*model, folder);
        write_safetensors(folder / "logits.safetensors",
                          {{"logits", model->logits(golden.input()).contiguous()}});
      }
    }
  }
}

}  // namespace
}  // namespace trestle
