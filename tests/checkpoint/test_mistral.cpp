// Mistral's own form against the Hugging Face fixtures it was made from
// (tools/make_mistral_fixtures.py), the choice between forms, and what is refused.
#include "checkpoint/format.h"
#include "checkpoint/hf_writer.h"
#include "checkpoint/mistral_checkpoint.h"
#include "checkpoint/mistral_names.h"
#include "checkpoint/mistral_params.h"
#include "hf_testing.h"

namespace trestle::testing {
namespace {

const fs::path kMistral = "fixtures/mistral";
const fs::path kMistralTied = "fixtures/mistral_tied";

/// A copy of the untied fixture, its tensors and params.json passed through `edit`.
void write_native(
    const fs::path& target,
    const std::function<void(NamedTensors&, Json&)>& edit = [](auto&, auto&) {}) {
  write_variant(kMistral, target, edit, "consolidated.safetensors", "params.json");
}

// Everything of a ModelConfig that the fixtures state, by the keys of config.json.
void expect_same_config(const Json& got, const Json& wanted) {
  for (const auto& [key, value] : wanted.items()) {
    // Not in params.json, and without meaning for the model.
    if (key == "bos_token_id" || key == "eos_token_id" || key == "pad_token_id" ||
        key == "initializer_range" || key == "use_cache" || key == "transformers_version" ||
        key == "dtype") {
      continue;
    }
    ASSERT_TRUE(got.contains(key)) << key;
    if (value.is_object()) {
      expect_same_config(got.at(key), value);
    } else {
      EXPECT_EQ(got.at(key), value) << key;
    }
  }
}

at::Tensor* tensor(NamedTensors& tensors, const std::string& name) {
  for (auto& [key, value] : tensors) {
    if (key == name) return &value;
  }
  ADD_FAILURE() << name << " is not there";
  return nullptr;
}

TEST(MistralCheckpoint, EqualsTheHuggingFaceFormBitForBit) {
  expect_equal(MistralCheckpoint(kMistral), HfCheckpoint(kUntied));
  expect_equal(MistralCheckpoint(kMistralTied), HfCheckpoint(kTied));  // two shards
}

TEST(MistralCheckpoint, ConfigMeansTheSame) {
  for (const auto& [native, hf] : {std::pair{kMistral, kUntied}, std::pair{kMistralTied, kTied}}) {
    const MistralCheckpoint checkpoint(native);
    expect_same_config(checkpoint.config_json(), read_json(hf / "config.json"));
    EXPECT_EQ(checkpoint.config().text.tie_word_embeddings, hf == kTied);
    EXPECT_EQ(checkpoint.config_json()["mistral_extras"]["vision_encoder"]["max_image_size"], 32);
  }
}

TEST(MistralCheckpoint, ParamsSurviveTheWordsOfConfigJson) {
  for (const fs::path& native : {kMistral, kMistralTied}) {
    Json params = read_json(native / "params.json");
    params["vision_encoder"]["max_image_size"] = 24;
    params["vision_encoder"]["image_break_token_id"] = 20;
    const Json config = config_of_params(params, "params.json");
    Json back = params_of_config(parse_hf_config(config, "config.json"), config);
    for (const auto& [key, value] : params.items()) {
      if (value.is_null()) {
        EXPECT_FALSE(back.contains(key));
      } else {
        EXPECT_EQ(back[key], value) << key;
        back.erase(key);
      }
    }
    EXPECT_TRUE(back.empty()) << back.dump();
  }
}

TEST(MistralCheckpoint, ApplyScaleIsYarnsFactor) {
  Json params = read_json(kMistral / "params.json");
  const auto yarn = [&] {
    return *parse_hf_config(config_of_params(params, "p"), "p").text.rope.yarn;
  };
  EXPECT_EQ(yarn().mscale_all_dim, 1);
  params["yarn"]["apply_scale"] = true;
  EXPECT_FALSE(yarn().mscale_all_dim);  // unset, which makes it 0.1 ln(factor) + 1
  params["yarn"].erase("apply_scale");
  EXPECT_EQ(yarn().mscale_all_dim, 1);
  params.erase("vision_encoder");
  EXPECT_REFUSED(yarn(), "yarn.apply_scale", "true or false");
}

TEST(MistralCheckpoint, TextOnlyAndWithoutYarn) {
  Json params = read_json(kMistral / "params.json");
  params.erase("vision_encoder");
  EXPECT_EQ(config_of_params(params, "p")["model_type"], "ministral3");
  params.erase("yarn");
  EXPECT_REFUSED(config_of_params(params, "p"), "llama_4_scaling", "yarn");
  params.erase("llama_4_scaling");
  params.erase("max_position_embeddings");
  const ModelConfig config = parse_hf_config(config_of_params(params, "p"), "p");
  EXPECT_FALSE(config.text.rope.yarn);
  EXPECT_FALSE(config.text.rope.llama_4_scaling_beta);
  EXPECT_EQ(config.text.rope.theta, 1e6);
  EXPECT_EQ(config.text.max_position_embeddings, 131072);
}

TEST(MistralNames, EveryNameHasOneOther) {
  std::map<std::string, std::string> seen;
  for (const auto& [name, value] : read_safetensors(kMistral / "consolidated.safetensors")) {
    const auto canonical = canonical_of_mistral(name);
    ASSERT_TRUE(canonical) << name;
    EXPECT_EQ(mistral_of_canonical(*canonical), name);
    EXPECT_TRUE(seen.emplace(*canonical, name).second) << *canonical;
  }
  EXPECT_EQ(canonical_of_mistral("layers.12.feed_forward.w2.qscale_weight"),
            "model.layers.12.mlp.down_proj.weight_scale_inv");
  EXPECT_EQ(canonical_of_mistral("vision_language_adapter.w_in.bias"),
            "multi_modal_projector.linear_1.bias");
  for (const char* unknown :
       {"layers..attention.wq.weight", "layers.1.attention.wz.weight",
        "layers.1.2.attention.wq.weight", "layers.*.attention.wq.weight", "", "layers.",
        "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"}) {
    EXPECT_FALSE(canonical_of_mistral(unknown)) << unknown;
  }
}

TEST(MistralNames, RowsMoveInPairs) {
  // Two heads of four rows.
  const at::Tensor pairs = at::arange(8, at::kFloat).view({8, 1});
  const at::Tensor halves = halves_from_pairs(pairs, 2, "w");
  EXPECT_TRUE(at::equal(halves.flatten(), at::tensor({0, 2, 1, 3, 4, 6, 5, 7}, at::kFloat)));
  EXPECT_TRUE(at::equal(pairs_from_halves(halves, 2, "w"), pairs));
  EXPECT_REFUSED(halves_from_pairs(pairs, 3, "w"), "w", "[8, 1]", "3 heads");
}

// The same numbers in both forms: the scale of a tensor or of a row, and FP8 values.
TEST(MistralCheckpoint, Fp8IsScaledAsInHuggingFaceFiles) {
  for (const bool by_row : {false, true}) {
    const auto quantize = [&](NamedTensors& tensors, const std::string& module,
                              const std::string& scale_name, const at::Tensor& scale_O) {
      at::Tensor& weight = *tensor(tensors, module + ".weight");
      const at::Tensor scale = by_row ? scale_O.unsqueeze(1) : at::tensor(0.01f);
      weight = (weight.to(at::kFloat) / scale).to(at::kFloat8_e4m3fn);
      tensors.emplace_back(module + scale_name, scale);
    };
    const TempDir folder;
    const at::Tensor scale_pairs = at::arange(1, 73, at::kFloat).mul(0.001);
    write_native(folder / "mistral", [&](NamedTensors& tensors, Json& params) {
      params["quantization"] = {{"qformat_weight", "fp8_e4m3"}, {"qscheme_act", "TENSOR"}};
      quantize(tensors, "layers.1.attention.wq", ".qscale_weight", scale_pairs);
      tensors.emplace_back("layers.1.attention.wq.qscale_act", at::tensor(0.5f));
      tensors.emplace_back("layers.1.attention.kv_fake_quantizer.qscale_act", at::tensor(0.5f));
    });
    write_variant(kUntied, folder / "hf", [&](NamedTensors& tensors, Json&) {
      quantize(tensors, "language_model.model.layers.1.self_attn.q_proj", ".weight_scale_inv",
               halves_from_pairs(scale_pairs, 6, "scale"));
    });
    expect_equal(MistralCheckpoint(folder / "mistral"), HfCheckpoint(folder / "hf"));
  }
}

TEST(MistralCheckpoint, RefusesFp8WithoutScale) {
  const TempDir folder;
  write_native(folder / "m", [&](NamedTensors& tensors, Json&) {
    at::Tensor& weight = *tensor(tensors, "layers.1.attention.wq.weight");
    weight = weight.to(at::kFloat8_e4m3fn);
  });
  EXPECT_REFUSED(MistralCheckpoint{folder / "m"}, "consolidated.safetensors",
                 "layers.1.attention.wq.weight", "has no layers.1.attention.wq.qscale_weight");
}

TEST(MistralCheckpoint, RefusesParamsByName) {
  const auto refusal = [](const std::function<void(Json&)>& edit) {
    Json params = read_json(kMistral / "params.json");
    edit(params);
    return error_of([&] {
      const Json config = config_of_params(params, "dir/params.json");
      parse_hf_config(config, "dir/params.json");
    });
  };
  const auto set = [&](const char* key, const Json& value, const std::vector<std::string>& parts) {
    std::vector<std::string> all = parts;
    all.insert(all.end(), {"dir/params.json", key});
    expect_mentions(refusal([&](Json& params) { params[key] = value; }), all);
    expect_mentions(refusal([&](Json& params) { params["vision_encoder"][key] = value; }),
                    {"dir/params.json", "vision_encoder", key});
  };
  for (const char* key :
       {"dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "norm_eps"}) {
    expect_mentions(refusal([&](Json& params) { params.erase(key); }), {key, "missing"});
    expect_mentions(refusal([&](Json& params) { params[key] = "many"; }), {key, "many"});
    expect_mentions(refusal([&](Json& params) { params[key] = -3; }), {key, "-3"});
  }
  set("moe", {{"num_experts", 8}}, {"num_experts", "not supported"});
  set("a_new_key", 1, {"a_new_key=1", "not known"});
  set("quantization_config", {{"quant_method", "compressed-tensors"}}, {"not supported"});
  const auto one = [&](const char* key, const Json& value, const std::vector<std::string>& parts) {
    std::vector<std::string> all = parts;
    all.push_back(key);
    expect_mentions(refusal([&](Json& params) { params[key] = value; }), all);
  };
  one("sliding_window", 4096, {"4096", "not supported"});
  one("sliding_window", "4096", {"4096", "not supported"});
  one("model_type", "mamba", {"mamba", "transformer"});
  one("activation", "gelu", {"gelu", "silu"});
  one("causal", false, {"false"});
  one("quantization", {{"qformat_weight", "nvfp4"}}, {"qformat_weight", "nvfp4", "fp8_e4m3"});
  one("quantization", {{"qformat_weight", "fp8_e4m3"}, {"qscheme_weight", "X"}},
      {"qscheme_weight"});
  one("llama_4_scaling", {{"beta", 0.1}, {"original_max_position_embeddings", 7}}, {"7", "16384"});
  one("yarn", {{"factor", 16}}, {"original_max_position_embeddings", "missing"});
  const auto vision = [&](const char* key, const Json& value) {
    return refusal([&](Json& params) { params["vision_encoder"][key] = value; });
  };
  expect_mentions(vision("mm_projector_id", nullptr), {"mm_projector_id", "patch_merge"});
  expect_mentions(vision("add_pre_mm_projector_layer_norm", false), {"pre_mm_projector"});
  expect_mentions(vision("hidden_size", 0), {"vision_encoder.hidden_size", "0"});
}

TEST(MistralCheckpoint, RefusesWhatItsFilesContradict) {
  const TempDir folder;
  write_native(folder / "tied",
               [](NamedTensors&, Json& params) { params["tied_embeddings"] = true; });
  EXPECT_REFUSED(MistralCheckpoint{folder / "tied"}, "params.json", "tied_embeddings=true",
                 "output.weight", "tok_embeddings.weight");
  write_native(folder / "headless", [](NamedTensors& tensors, Json&) {
    std::erase_if(tensors, [](const auto& item) { return item.first == "output.weight"; });
  });
  EXPECT_REFUSED(MistralCheckpoint{folder / "headless"}, "tied_embeddings=false", "output.weight");
  write_native(folder / "bare");
  fs::remove(folder / "bare/params.json");
  EXPECT_REFUSED(MistralCheckpoint{folder / "bare"}, "params.json");
  write_native(folder / "weightless");
  fs::remove(folder / "weightless/consolidated.safetensors");
  EXPECT_REFUSED(MistralCheckpoint{folder / "weightless"}, "consolidated.safetensors.index.json");
}

TEST(MistralParams, RefusesWhatTheyCannotState) {
  const auto refusal = [](const std::function<void(ModelConfig&)>& edit) {
    ModelConfig config = read_hf_config(kUntied);
    edit(config);
    return error_of([&] { params_of_config(config, Json::object()); });
  };
  expect_mentions(refusal([](auto& c) { c.vision->hidden_act = VisionConfig::Activation::kGelu; }),
                  {"vision_config.hidden_act", "silu"});
  expect_mentions(
      refusal([](auto& c) { c.projector.hidden_act = ProjectorConfig::Activation::kSilu; }),
      {"projector_hidden_act", "gelu"});
  expect_mentions(refusal([](auto& c) { c.projector.vision_feature_layers = {-2}; }),
                  {"vision_feature_layer"});
  expect_mentions(refusal([](auto& c) { c.text.rope.yarn->mscale_all_dim = 0.5; }),
                  {"mscale=1", "mscale_all_dim=0.5"});
  expect_mentions(refusal([](auto& c) { c.text.rope.yarn->attention_factor = 2; }),
                  {"attention_factor=2"});
  expect_mentions(refusal([](auto& c) { c.text.rope.yarn->truncate = false; }), {"truncate"});
  expect_mentions(refusal([](auto& c) { c.text.rope.yarn.reset(); }), {"llama_4_scaling_beta=0.1"});
}

// users' pain point 23: two forms in one directory.
TEST(Format, ChoosesByPrecedenceAndByName) {
  const TempDir folder;
  EXPECT_EQ(choose_format(kMistral).format, CheckpointFormat::kMistral);
  EXPECT_EQ(choose_format(kUntied).format, CheckpointFormat::kHf);
  EXPECT_EQ(choose_format("fixtures/megatron/import").format, CheckpointFormat::kMegatron);
  EXPECT_EQ(choose_format(kMistral).note, "");
  EXPECT_EQ(choose_format(folder / "absent").format, CheckpointFormat::kHf);

  fs::copy(kUntied, folder / "both", fs::copy_options::recursive);
  fs::copy(kMistral, folder / "both");
  const FormatChoice hf = choose_format(folder / "both");
  EXPECT_EQ(hf.format, CheckpointFormat::kHf);
  expect_mentions(hf.note, {"both: reading the Hugging Face form (0.2 MB)",
                            "the Mistral form (0.2 MB) with --format mistral"});
  EXPECT_EQ(hf.note.find('\n'), std::string::npos);
  const FormatChoice native = choose_format(folder / "both", CheckpointFormat::kMistral);
  EXPECT_EQ(native.format, CheckpointFormat::kMistral);
  expect_mentions(native.note, {"reading the Mistral form", "--format hf"});

  fs::copy("fixtures/megatron/import", folder / "both", fs::copy_options::recursive);
  EXPECT_EQ(choose_format(folder / "both").format, CheckpointFormat::kMegatron);
  expect_mentions(choose_format(folder / "both").note, {"the Megatron form", "--format hf"});

  EXPECT_REFUSED(choose_format(kUntied, CheckpointFormat::kMistral), "--format mistral",
                 "fixtures/hf", "it holds: hf");
  EXPECT_REFUSED(open_model_directory("fixtures/megatron/import", CheckpointFormat::kMegatron),
                 "Megatron", "fixtures/megatron/import");
}

TEST(Format, SaysWhichOfTwoSetsOfWeightsIsRead) {
  const TempDir folder;
  fs::copy(kUntied, folder / "stray", fs::copy_options::recursive);
  write_text(folder / "stray" / "model.safetensors.index.json", "{}");
  const FormatChoice choice = choose_format(folder / "stray");
  EXPECT_EQ(choice.format, CheckpointFormat::kHf);
  EXPECT_EQ(choice.note, (folder / "stray").string() +
                             ": model.safetensors is read; model.safetensors.index.json and the "
                             "files that it names are not");
}

TEST(Format, ReadsTheConfigOfEither) {
  EXPECT_EQ(read_config_json(kUntied).second, "fixtures/hf/config.json");
  const auto [config, file] = read_config_json(kMistral);
  EXPECT_EQ(file, "fixtures/mistral/params.json");
  EXPECT_EQ(config.at("model_type"), "mistral3");
  EXPECT_REFUSED(read_config_json("pytorch/pickles"), "config.json");
}

TEST(HfWriter, WritesMistralsFiles) {
  const TempDir folder;
  const MistralCheckpoint source(kMistral);
  TensorList list(source.tensors().begin(), source.tensors().end());
  const auto write = [&](const fs::path& target, uint64_t shard, const fs::path& assets) {
    HfWriter writer(target, list, params_of_config(source.config(), source.config_json()),
                    side_files(assets),
                    {.spelling = HfSpelling::kMistral, .max_shard_bytes = shard});
    const MistralRows rows(source, source.config());
    for (const auto& [name, info] : list) writer.write(name, rows.read(name));
    writer.commit();
  };
  write(folder / "one", 1 << 30, kMistral);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "one"), {}),
            3);  // and config.json is not
  EXPECT_EQ(read_text(folder / "one/tekken.json"), read_text(kMistral / "tekken.json"));
  expect_equal(SafetensorsFile(folder / "one/consolidated.safetensors"),
               SafetensorsFile(kMistral / "consolidated.safetensors"));
  write(folder / "many", 50000, kMistral);
  EXPECT_TRUE(fs::exists(folder / "many/consolidated.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(folder / "many/consolidated.safetensors"));
  expect_equal(MistralCheckpoint(folder / "many"), source);
  EXPECT_REFUSED(write(folder / "none", 1 << 30, kUntied), "none", "tekken.json");
  EXPECT_FALSE(fs::exists(folder / "none"));
}

}  // namespace
}  // namespace trestle::testing
