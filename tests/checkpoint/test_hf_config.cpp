// config.json -> ModelConfig: the fixtures, the old and the new way to state rope, the defaults of
// transformers, and every value that is refused by name.
#include "checkpoint/hf_config.h"
#include "hf_testing.h"

namespace trestle {
namespace {

using namespace trestle::testing;

Json fixture() { return read_json(kUntied / "config.json"); }

// Values of the Mistral Small 3.1 kind: `mistral` text, rope the old way, no flag for tied
// embeddings.
Json mistral_small() {
  return Json::parse(R"({
    "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10, "model_type": "mistral3",
    "multimodal_projector_bias": false, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
    "text_config": {"attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
      "intermediate_size": 32768, "max_position_embeddings": 131072, "model_type": "mistral",
      "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
      "rope_theta": 1000000000.0, "sliding_window": null, "vocab_size": 131072},
    "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
    "vision_config": {"head_dim": 64, "hidden_act": "gelu", "hidden_size": 1024, "image_size": 1540,
      "intermediate_size": 4096, "model_type": "pixtral", "num_attention_heads": 16, "num_channels": 3,
      "num_hidden_layers": 24, "patch_size": 14, "rope_theta": 10000.0},
    "vision_feature_layer": -1})");
}

std::string parse_error(const std::function<void(Json&)>& edit, Json config = fixture()) {
  edit(config);
  const std::string message = error_of([&] { parse_hf_config(config, "DIR/config.json"); });
  expect_mentions(message, {"DIR/config.json"});
  return message;
}

ModelConfig parsed(const std::function<void(Json&)>& edit, Json config = fixture()) {
  edit(config);
  return parse_hf_config(config, "config.json");
}

TEST(HfConfig, ReadsTheFixture) {
  const ModelConfig config = read_hf_config(kUntied);
  EXPECT_EQ(config.text.hidden_size, 48);
  EXPECT_EQ(config.text.intermediate_size, 80);
  EXPECT_EQ(config.text.num_layers, 3);
  EXPECT_EQ(config.text.num_attention_heads, 6);
  EXPECT_EQ(config.text.num_query_groups, 2);
  EXPECT_EQ(config.text.head_dim, 12);
  EXPECT_EQ(config.text.vocab_size, 288);
  EXPECT_EQ(config.text.max_position_embeddings, 262144);
  EXPECT_EQ(config.text.rms_norm_eps, 1e-5);
  EXPECT_FALSE(config.text.tie_word_embeddings);
  EXPECT_EQ(config.text.rope.theta, 1e6);
  ASSERT_TRUE(config.text.rope.yarn);
  EXPECT_EQ(config.text.rope.yarn->factor, 16);
  EXPECT_EQ(config.text.rope.yarn->original_max_position_embeddings, 16384);
  EXPECT_EQ(config.text.rope.yarn->mscale, 1.0);
  EXPECT_EQ(config.text.rope.yarn->mscale_all_dim, 1.0);
  EXPECT_FALSE(config.text.rope.yarn->attention_factor);
  EXPECT_TRUE(config.text.rope.yarn->truncate);
  EXPECT_EQ(config.text.rope.llama_4_scaling_beta, 0.1);
  EXPECT_EQ(config.text.rope.llama_4_original_max_position_embeddings, 16384);
  ASSERT_TRUE(config.vision);
  EXPECT_EQ(config.vision->hidden_size, 24);
  EXPECT_EQ(config.vision->head_dim, 12);
  EXPECT_EQ(config.vision->patch_size, 4);
  EXPECT_EQ(config.vision->image_size, 32);
  EXPECT_EQ(config.vision->hidden_act, VisionConfig::Activation::kSilu);
  EXPECT_EQ(config.projector.vision_feature_layers, std::vector<int64_t>({-1}));
  EXPECT_EQ(config.image_token_id, 10);
  EXPECT_TRUE(read_hf_config(kTied).text.tie_word_embeddings);
}

TEST(HfConfig, ReadsMistralTextAndOldRope) {
  const ModelConfig config = parse_hf_config(mistral_small(), "config.json");
  EXPECT_EQ(config.text.rope.theta, 1e9);
  EXPECT_FALSE(config.text.rope.yarn);
  EXPECT_FALSE(config.text.rope.llama_4_scaling_beta);
  EXPECT_EQ(config.text.head_dim, 128);
  EXPECT_EQ(config.vision->hidden_act, VisionConfig::Activation::kGelu);
  EXPECT_EQ(config.vision->head_dim, 64);

  const auto yarn = parsed(
      [](Json& json) {
        json["text_config"]["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
      },
      mistral_small());
  ASSERT_TRUE(yarn.text.rope.yarn);
  EXPECT_EQ(yarn.text.rope.theta, 1e9);
  EXPECT_EQ(yarn.text.rope.yarn->factor, 4);
  // Unstated: the context length itself, as transformers fills it in.
  EXPECT_EQ(yarn.text.rope.yarn->original_max_position_embeddings, 131072);
  EXPECT_FALSE(yarn.text.rope.yarn->mscale);
}

TEST(HfConfig, ReadsTextOnly) {
  const auto text_only = [](Json& json) {
    Json text = json["text_config"];
    text["architectures"] = {"Ministral3ForCausalLM"};
    json = text;
  };
  const ModelConfig config = parsed(text_only);
  EXPECT_FALSE(config.vision);
  EXPECT_EQ(config.text.hidden_size, 48);
  EXPECT_TRUE(config.text.rope.yarn);
  const ModelConfig mistral = parsed(
      [](Json& json) {
        json = json["text_config"];
        json.erase("tie_word_embeddings");
      },
      mistral_small());
  EXPECT_EQ(mistral.text.hidden_size, 5120);
  EXPECT_FALSE(mistral.text.tie_word_embeddings);
}

TEST(HfConfig, AbsentKeysTakeTheDefaultsOfTransformers) {
  const ModelConfig ministral = parsed([](Json& json) {
    json["text_config"] = {{"model_type", "ministral3"}};
    json["vision_config"] = {{"model_type", "pixtral"}};
    for (const char* key : {"projector_hidden_act", "vision_feature_layer", "image_token_index",
                            "spatial_merge_size", "multimodal_projector_bias"}) {
      json.erase(key);
    }
  });
  EXPECT_EQ(ministral.text.hidden_size, 4096);
  EXPECT_EQ(ministral.text.intermediate_size, 14336);
  EXPECT_EQ(ministral.text.num_layers, 34);
  EXPECT_EQ(ministral.text.num_query_groups, 8);
  EXPECT_EQ(ministral.text.head_dim, 128);
  EXPECT_EQ(ministral.text.vocab_size, 131072);
  EXPECT_EQ(ministral.text.rms_norm_eps, 1e-5);
  EXPECT_EQ(ministral.text.rope.theta, 1e6);
  EXPECT_EQ(ministral.text.rope.yarn.value().factor, 16);
  EXPECT_EQ(ministral.text.rope.llama_4_scaling_beta, 0.1);
  EXPECT_EQ(ministral.vision->patch_size, 16);
  EXPECT_EQ(ministral.vision->image_size, 1024);
  EXPECT_EQ(ministral.vision->hidden_act, VisionConfig::Activation::kGelu);
  EXPECT_EQ(ministral.projector.hidden_act, ProjectorConfig::Activation::kGelu);
  EXPECT_EQ(ministral.projector.spatial_merge_size, 2);
  EXPECT_EQ(ministral.image_token_id, 10);

  const ModelConfig mistral = parsed([](Json& json) {
    json["text_config"] = {
        {"model_type", "mistral"}, {"sliding_window", nullptr}, {"hidden_size", 2048}};
  });
  EXPECT_EQ(mistral.text.num_layers, 32);
  EXPECT_EQ(mistral.text.head_dim, 64);  // hidden / heads, not 128
  EXPECT_EQ(mistral.text.vocab_size, 32000);
  EXPECT_EQ(mistral.text.rms_norm_eps, 1e-6);
  EXPECT_EQ(mistral.text.rope.theta, 10000);

  const ModelConfig null_heads = parsed([](Json& json) {
    json["text_config"]["num_key_value_heads"] = nullptr;
    json["text_config"]["head_dim"] = nullptr;
  });
  EXPECT_EQ(null_heads.text.num_query_groups, 6);
  EXPECT_EQ(null_heads.text.head_dim, 8);
}

TEST(HfConfig, ReadsEveryYarnKey) {
  const ModelConfig config = parsed([](Json& json) {
    json["text_config"]["rope_parameters"].update({{"attention_factor", 1.25},
                                                   {"truncate", false},
                                                   {"beta_fast", 0},
                                                   {"beta_slow", 2},
                                                   {"mscale", 0},
                                                   {"max_position_embeddings", 9},
                                                   {"factor", nullptr}});
  });
  const YarnConfig& yarn = config.text.rope.yarn.value();
  EXPECT_EQ(yarn.attention_factor, 1.25);
  EXPECT_FALSE(yarn.truncate);
  EXPECT_EQ(yarn.beta_fast, 32);  // 0 means unset
  EXPECT_EQ(yarn.beta_slow, 2);
  EXPECT_FALSE(yarn.mscale);
  EXPECT_EQ(yarn.factor, 16);  // null: 262144 / 16384
  // The text config's own is read too (standardize_rope_params).
  const ModelConfig own = parsed([](Json& json) {
    json["text_config"]["original_max_position_embeddings"] = 1024;
    json["text_config"]["rope_parameters"].erase("original_max_position_embeddings");
  });
  EXPECT_EQ(own.text.rope.yarn.value().original_max_position_embeddings, 1024);
}

TEST(HfConfig, ReadsTheProjector) {
  const ModelConfig config = parsed([](Json& json) {
    json["vision_feature_layer"] = {-2, 0};
    json["projector_hidden_act"] = "relu";
    json["multimodal_projector_bias"] = true;
    json.erase("image_token_index");
    json["image_token_id"] = 12;
  });
  EXPECT_EQ(config.projector.vision_feature_layers, std::vector<int64_t>({-2, 0}));
  EXPECT_EQ(config.projector.hidden_act, ProjectorConfig::Activation::kRelu);
  EXPECT_TRUE(config.projector.bias);
  EXPECT_EQ(config.image_token_id, 12);
}

// users' pain point 6: tied embeddings.
TEST(HfConfig, TiedEmbeddingsFromBothLevels) {
  const auto stated = [](const char* text, const char* top) {
    Json json = fixture();
    json.erase("tie_word_embeddings");
    json["text_config"].erase("tie_word_embeddings");
    if (*text) json["text_config"]["tie_word_embeddings"] = Json::parse(text);
    if (*top) json["tie_word_embeddings"] = Json::parse(top);
    return stated_tie(json);
  };
  EXPECT_EQ(stated("true", "true"), true);
  EXPECT_EQ(stated("false", "false"), false);
  EXPECT_EQ(stated("true", ""), true);
  EXPECT_EQ(stated("false", ""), true);  // the top level's default
  EXPECT_EQ(stated("", "true"), true);
  EXPECT_EQ(stated("", "false"), false);
  EXPECT_EQ(stated("true", "false"), std::nullopt);
  EXPECT_EQ(stated("false", "true"), true);
  EXPECT_EQ(stated("", ""), true);
}

TEST(HfConfigBadInput, IsRefusedByName) {
  const auto text = [](const char* key, const char* value) {
    return [=](Json& json) { json["text_config"][key] = Json::parse(value); };
  };
  const auto vision = [](const char* key, const char* value) {
    return [=](Json& json) { json["vision_config"][key] = Json::parse(value); };
  };
  const auto top = [](const char* key, const char* value) {
    return [=](Json& json) { json[key] = Json::parse(value); };
  };
  const auto rope = [](const char* key, const char* value) {
    return [=](Json& json) { json["text_config"]["rope_parameters"][key] = Json::parse(value); };
  };
  const struct {
    std::function<void(Json&)> edit;
    std::vector<std::string> mentions;
  } cases[] = {
      {top("model_type", "\"llava\""), {"model_type=llava", "mistral3"}},
      {[](Json& json) { json.erase("model_type"); }, {"model_type is missing"}},
      {[](Json& json) { json.erase("text_config"); }, {"text_config is missing"}},
      {[](Json& json) { json.erase("vision_config"); }, {"vision_config is missing"}},
      {top("text_config", "3"), {"text_config is not an object"}},
      {text("model_type", "\"llama\""), {"text_config.model_type=llama", "ministral3"}},
      {vision("model_type", "\"clip_vision_model\""),
       {"vision_config.model_type=clip_vision_model"}},
      {text("hidden_act", "\"gelu\""), {"text_config.hidden_act=gelu", "silu"}},
      {vision("hidden_act", "\"relu\""), {"vision_config.hidden_act=relu"}},
      {top("projector_hidden_act", "\"mish\""), {"projector_hidden_act=mish", "gelu"}},
      {text("rope_parameters", R"({"rope_type": "longrope"})"), {"rope_type=longrope", "yarn"}},
      {rope("factor", "-1"), {"rope_parameters.factor=-1"}},
      {rope("factor", "\"16\""), {"rope_parameters.factor=\"16\""}},
      {rope("partial_rotary_factor", "0.5"), {"partial_rotary_factor=0.5"}},
      {rope("beta_fast", "-2"), {"beta_fast=-2"}},
      {rope("high_freq_factor", "4.0"), {"text_config.rope_parameters.high_freq_factor=4.0"}},
      {rope("beta_fats", "4"), {"text_config.rope_parameters.beta_fats=4 is not supported"}},
      {text("rope_theta", "1e4"), {"rope_theta=10000.0", "rope_parameters.rope_theta=1000000.0"}},
      {rope("type", "\"default\""), {"rope_parameters.type=\"default\"", "rope_type=\"yarn\""}},
      {text("rope_scaling", R"({"rope_type": "yarn", "rope_theta": 1e6, "factor": 2})"),
       {"rope_parameters and text_config.rope_scaling differ"}},
      {text("original_max_position_embeddings", "64"),
       {"text_config.original_max_position_embeddings=64", "=16384 differ"}},
      {text("rope_parameters", R"({"rope_type": "default", "factor": 2, "rope_theta": 1e6})"),
       {"rope_parameters.factor=2 has no effect with rope_type=default"}},
      {vision("attention_bias", "true"), {"vision_config.attention_bias=true"}},
      {vision("window_size", "8"), {"vision_config.window_size=8"}},
      {top("sliding_window", "4096"), {"sliding_window=4096"}},
      {text("qkv_bias", "true"), {"text_config.qkv_bias=true"}},
      {rope("beta_slow", "64"), {"beta_fast=32", "beta_slow=64"}},
      {text("attn_logit_softcapping", "50.0"), {"text_config.attn_logit_softcapping=50.0"}},
      {top("final_logit_softcapping", "30"), {"final_logit_softcapping=30"}},
      {text("query_pre_attn_scalar", "256"), {"text_config.query_pre_attn_scalar=256"}},
      {text("use_qk_norm", "true"), {"text_config.use_qk_norm=true"}},
      {text("logit_scale", "0.0625"), {"text_config.logit_scale=0.0625"}},
      {text("residual_multiplier", "0.22"), {"text_config.residual_multiplier=0.22"}},
      {text("num_experts", "8"), {"text_config.num_experts=8"}},
      {text("is_causal", "false"), {"text_config.is_causal=false"}},
      {text("layer_types", R"(["full_attention", "sliding_attention"])"),
       {"text_config.layer_types=", "sliding_attention"}},
      {vision("rope_parameters", R"({"rope_theta": 1e4, "factor": 2})"),
       {"vision_config.rope_parameters.factor=2"}},
      {vision("rope_parameters", R"({"rope_theta": 1e4, "partial_rotary_factor": 0.5})"),
       {"partial_rotary_factor=0.5"}},
      {[](Json& json) { json["text_config"]["rope_parameters"].erase("factor"); },
       {"factor is missing"}},
      {[](Json& json) { json["text_config"]["rope_parameters"].erase("llama_4_scaling_beta"); },
       {"llama_4_scaling_beta is missing"}},
      {text("rope_parameters", "[]"), {"rope_parameters is not an object"}},
      {vision("rope_parameters", R"({"rope_type": "yarn"})"),
       {"vision_config.rope_parameters.rope_type=yarn"}},
      {text("sliding_window", "4096"), {"text_config.sliding_window=4096"}},
      {text("attention_bias", "true"), {"text_config.attention_bias=true"}},
      {text("mlp_bias", "true"), {"text_config.mlp_bias=true"}},
      {text("attention_dropout", "0.1"), {"text_config.attention_dropout=0.1"}},
      {text("num_hidden_layers", "0"), {"text_config.num_hidden_layers=0", "from 1 to"}},
      {text("hidden_size", "1e3"), {"text_config.hidden_size=1000.0"}},
      {text("vocab_size", "99999999999999999999"), {"text_config.vocab_size="}},
      {text("vocab_size", "18446744073709551615"), {"text_config.vocab_size="}},
      {text("intermediate_size", "\"big\""), {"text_config.intermediate_size=\"big\""}},
      {text("num_key_value_heads", "4"), {"num_attention_heads=6", "num_key_value_heads=4"}},
      {text("head_dim", "7"), {"text_config.head_dim=7", "even"}},
      {text("rms_norm_eps", "0"), {"text_config.rms_norm_eps=0"}},
      {text("tie_word_embeddings", "\"yes\""), {"text_config.tie_word_embeddings=\"yes\""}},
      {top("tie_word_embeddings", "1"), {"tie_word_embeddings=1"}},
      {vision("num_attention_heads", "5"),
       {"vision_config.hidden_size=24", "num_attention_heads=5"}},
      {vision("head_dim", "16"), {"head_dim=16"}},
      {vision("patch_size", "[4, 4]"), {"vision_config.patch_size=[4,4]"}},
      {top("vision_feature_layer", "3"), {"vision_feature_layer=3", "-3 to 2"}},
      {top("vision_feature_layer", "[]"), {"vision_feature_layer lists 0"}},
      {top("spatial_merge_size", "-2"), {"spatial_merge_size=-2"}},
      {top("image_token_index", "288"), {"image_token_index=288", "287"}},
      {top("image_token_id", "11"), {"image_token_index=10", "image_token_id=11"}},
      {top("quantization_config", R"({"quant_method": "bitsandbytes"})"),
       {"quant_method=bitsandbytes", "fp8"}},
      {text("quantization_config", R"({"quant_method": "gptq"})"),
       {"text_config.quantization_config.quant_method=gptq"}},
      {top("quantization_config", R"({"quant_method": "fp8", "weight_block_size": [128]})"),
       {"weight_block_size=[128]"}},
  };
  for (const auto& item : cases) expect_mentions(parse_error(item.edit), item.mentions);
  // transformers' default of an absent sliding window is 4096 for mistral.
  expect_mentions(
      parse_error([](Json& json) { json["text_config"].erase("sliding_window"); }, mistral_small()),
      {"sliding_window is absent", "4096"});
  EXPECT_REFUSED(parse_hf_config(Json::parse("[1]"), "F"), "F", "not an object");
}

TEST(HfConfig, KeysOfOtherFamiliesThatChangeNothing) {
  Json json = fixture();
  const ModelConfig plain = parse_hf_config(json, "F");
  Json& text = json["text_config"];
  text.update({{"attn_logit_softcapping", nullptr},
               {"use_qk_norm", false},
               {"num_experts", 0},
               {"logit_scale", 1},
               {"residual_multiplier", 1.0},
               {"is_causal", true},
               {"layer_types", {"full_attention", "full_attention"}},
               {"rope_theta", text["rope_parameters"]["rope_theta"]},
               {"use_cache", true}});
  text["rope_parameters"]["type"] = text["rope_parameters"]["rope_type"];
  const ModelConfig same = parse_hf_config(json, "F");
  EXPECT_EQ(same.text.rope.theta, plain.text.rope.theta);
  EXPECT_EQ(same.text.num_layers, plain.text.num_layers);
}

TEST(HfConfigBadInput, MissingOrBrokenFile) {
  const TempDir dir;
  EXPECT_REFUSED(read_hf_config(dir.path()), "config.json", "No such file");
  write_text(dir / "config.json", "{\"a\": ");
  EXPECT_REFUSED(read_hf_config(dir.path()), "config.json", "not valid JSON");
  write_text(dir / "config.json", R"({"model_type": "mistral3", "a": {"b": 1, "b": 1}})");
  EXPECT_REFUSED(read_hf_config(dir.path()), "config.json", "\"b\" stands twice");
}

TEST(HfConfig, Fp8IsAcceptedWithItsBlockSize) {
  Json json = fixture();
  json["quantization_config"] = {
      {"quant_method", "fp8"}, {"activation_scheme", "static"}, {"weight_block_size", nullptr}};
  parse_hf_config(json, "config.json");
  EXPECT_FALSE(stated_fp8_block(json, "config.json"));
  json["quantization_config"]["weight_block_size"] = {128, 64};
  EXPECT_EQ(stated_fp8_block(json, "config.json"), (Fp8Block{128, 64}));
}

TEST(HfConfig, ExportSettlesTieAndDtypeAndKeepsTheRest) {
  Json json = fixture();
  json["quantization_config"] = {{"quant_method", "fp8"}};
  json["text_config"]["dtype"] = "float32";
  json["text_config"].erase("tie_word_embeddings");
  json["my_key"] = {1, 2};
  const Json out = export_config(json, true, at::kBFloat16);
  EXPECT_EQ(out["tie_word_embeddings"], true);
  EXPECT_EQ(out["text_config"]["tie_word_embeddings"], true);
  EXPECT_EQ(out["dtype"], "bfloat16");
  EXPECT_EQ(out["text_config"]["dtype"], "bfloat16");
  EXPECT_FALSE(out["vision_config"].contains("dtype"));
  EXPECT_FALSE(out.contains("quantization_config"));
  EXPECT_EQ(out["transformers_version"], "5.12.1");
  EXPECT_EQ(out["my_key"], json["my_key"]);
  // The old key stays the only one.
  const Json old = export_config(mistral_small(), false, at::kFloat);
  EXPECT_EQ(old["torch_dtype"], "float32");
  EXPECT_FALSE(old.contains("dtype"));
  // Keys that mean nothing to a text-only model may hold anything.
  Json text_only = mistral_small();
  text_only["text_config"] = 3;
  EXPECT_EQ(export_config(text_only, false, at::kFloat)["text_config"], 3);
  // A fixture that is right already comes out as it was.
  EXPECT_EQ(export_config(fixture(), false, at::kBFloat16), fixture());
}

}  // namespace
}  // namespace trestle
