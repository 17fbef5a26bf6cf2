// Weights that are not those of the config: refused wherever a checkpoint is opened.
#include <gtest/gtest.h>

#include <map>

#include "base/file.h"
#include "base/json.h"
#include "bridge/convert.h"
#include "bridge/gguf.h"
#include "bridge/gguf_source.h"
#include "bridge/load.h"
#include "formats/yaml.h"
#include "hf_testing.h"
#include "megatron/checkpoint.h"
#include "model/ministral3.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;

const fs::path kRun = "fixtures/megatron/import";
constexpr const char* kHead = "language_model.output_layer.weight";

// Tensors as they are, but one of them with more rows.
class Padded : public TensorSource {
 public:
  Padded(const TensorSource& source, std::string name, int64_t rows)
      : source_(source), tensors_(source.tensors()), name_(std::move(name)) {
    tensors_.at(name_).shape.at(0) += rows;
  }
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override {
    const at::Tensor tensor = source_.read(name);
    if (name != name_) return tensor;
    at::Tensor padded = at::zeros(tensors_.at(name).shape, tensor.options());
    padded.narrow(0, 0, tensor.size(0)).copy_(tensor);
    return padded;
  }

 private:
  const TensorSource& source_;
  std::map<std::string, TensorInfo> tensors_;
  std::string name_;
};

class Load : public testing::InDirectory<> {
 protected:
  /// The fixture's config.json with one key changed, `pointer` as "/text_config/head_dim".
  fs::path config(const std::map<std::string, Json>& changes) const {
    Json json = read_json("fixtures/hf/config.json");
    for (const auto& [pointer, value] : changes) json[Json::json_pointer(pointer)] = value;
    write_json(directory_ / "config" / "config.json", json);
    return directory_ / "config";
  }
  /// The fixture's run with model.hf_config gone, or without run_config.yaml at all.
  fs::path run(bool provider) const {
    const fs::path copy = directory_ / (provider ? "provider" : "bare");
    if (fs::exists(copy)) return copy;
    fs::copy(kRun, copy, fs::copy_options::recursive);
    const fs::path file = copy / "iter_0000000" / "run_config.yaml";
    Json run_config = read_yaml(file);
    fs::remove(file);
    run_config["model"].erase("hf_config");
    if (provider) write_text(file, dump_yaml(run_config));
    return copy;
  }
  std::string refusal(const fs::path& weights, const std::map<std::string, Json>& changes) const {
    return error_of([&] { OpenCheckpoint(weights, config(changes)); });
  }
};

TEST_F(Load, AConfigThatContradictsTheRunsOwnIsRefusedByKey) {
  const auto expect = [&](const std::string& pointer, const Json& value, const std::string& ours,
                          const std::string& theirs) {
    std::string key = pointer.substr(1);
    std::ranges::replace(key, '/', '.');
    expect_mentions(refusal(kRun, {{pointer, value}}),
                    {(directory_ / "config" / "config.json").string(), key + "=" + ours,
                     "run_config.yaml says " + theirs});
  };
  expect("/text_config/num_hidden_layers", 2, "2", "3");
  expect("/text_config/num_key_value_heads", 3, "3", "2");
  expect("/text_config/hidden_size", 60, "60", "48");
  expect("/text_config/intermediate_size", 81, "81", "80");
  expect("/text_config/vocab_size", 280, "280", "288");
  expect("/text_config/rms_norm_eps", 1e-6, "1e-06", "1e-05");
  expect("/text_config/rope_parameters/rope_theta", 5000.0, "5000", "1000000");
  expect("/text_config/rope_parameters/factor", 8.0, "8", "16");
  expect("/text_config/rope_parameters/beta_fast", 16.0, "16", "32");
  expect("/text_config/rope_parameters/beta_slow", 2.0, "2", "1");
  expect("/text_config/rope_parameters/mscale", 0.5, "0.5", "1");
  expect("/text_config/rope_parameters/mscale_all_dim", 0.5, "0.5", "1");
  expect("/text_config/rope_parameters/attention_factor", 2.0, "2", "null");
  expect("/text_config/rope_parameters/truncate", false, "false", "true");
  expect("/text_config/rope_parameters/llama_4_scaling_beta", 0.2, "0.2", "0.1");
  expect("/text_config/rope_parameters/original_max_position_embeddings", 8192, "8192", "16384");
  expect("/vision_config/num_hidden_layers", 1, "1", "2");
  expect("/vision_config/hidden_act", "gelu", "gelu", "silu");
  expect("/vision_config/patch_size", 8, "8", "4");
  expect("/vision_config/num_channels", 1, "1", "3");
  expect("/vision_config/rope_parameters/rope_theta", 100.0, "100", "10000");
  expect("/spatial_merge_size", 4, "4", "2");
  expect("/projector_hidden_act", "relu", "relu", "gelu");
  expect("/multimodal_projector_bias", true, "true", "false");
  expect("/vision_feature_layer", 1, "[1]", "[-1]");
  expect("/image_token_index", 11, "11", "10");
  // The same shapes, every one of them.
  expect_mentions(refusal(kRun, {{"/text_config/num_attention_heads", 12},
                                 {"/text_config/num_key_value_heads", 4},
                                 {"/text_config/head_dim", 6}}),
                  {"num_attention_heads=12", "says 6"});
  expect_mentions(
      refusal(kRun, {{"/vision_config/num_attention_heads", 1}, {"/vision_config/head_dim", 24}}),
      {"vision_config.num_attention_heads=1", "says 2"});
  const Json text = read_json("fixtures/hf/config.json")["text_config"];
  write_json(directory_ / "text" / "config.json", text);
  EXPECT_REFUSED(OpenCheckpoint(kRun, directory_ / "text"), "vision_config=(absent)", "(there)");
}

TEST_F(Load, WhatOnlyDescribesMayDiffer) {
  EXPECT_NO_THROW(OpenCheckpoint(kRun, config({{"/text_config/max_position_embeddings", 1024},
                                               {"/vision_config/image_size", 64},
                                               {"/dtype", "float32"},
                                               {"/architectures", Json::array({"Another"})},
                                               {"/text_config/use_cache", false},
                                               {"/transformers_version", "4.57.3"}})));
}

TEST_F(Load, WithoutAConfigOfItsOwnTheProvidersArgumentsCount) {
  EXPECT_NO_THROW(OpenCheckpoint(run(true), fs::path("fixtures/hf")));
  expect_mentions(refusal(run(true), {{"/text_config/num_attention_heads", 12},
                                      {"/text_config/num_key_value_heads", 4},
                                      {"/text_config/head_dim", 6}}),
                  {"text_config.num_attention_heads=12", "says 6 (num_attention_heads)"});
  expect_mentions(refusal(run(true), {{"/text_config/rope_parameters/rope_theta", 5000.0}}),
                  {"rope_theta=5000", "1000000.0 (rotary_base)"});
  expect_mentions(refusal(run(true), {{"/text_config/num_hidden_layers", 2}}),
                  {"num_hidden_layers=2", "says 3 (num_layers)"});
}

TEST_F(Load, WithoutEitherTheTensorsAreHeldToTheConfig) {
  EXPECT_NO_THROW(OpenCheckpoint(run(false), fs::path("fixtures/hf")));
  const std::string place = run(false).string();
  expect_mentions(refusal(run(false), {{"/text_config/num_hidden_layers", 2}}),
                  {place, "language_model.decoder.layers.2.", "no place"});
  expect_mentions(refusal(run(false), {{"/text_config/num_hidden_layers", 4}}),
                  {place, "language_model.decoder.layers.3.", "missing"});
  // Fewer rows than the checkpoint has, in a tensor that no vocabulary pads.
  expect_mentions(refusal(run(false), {{"/text_config/num_key_value_heads", 1}}),
                  {"linear_qkv.weight", "[120, 48]", "[96, 48]"});
  expect_mentions(refusal(run(false), {{"/text_config/num_key_value_heads", 3}}),
                  {"linear_qkv.weight", "[120, 48]", "[144, 48]"});
  expect_mentions(refusal(run(false), {{"/text_config/intermediate_size", 79}}),
                  {"[160, 48]", "[158, 48]"});
  expect_mentions(refusal(run(false), {{"/vision_config/num_hidden_layers", 1}}),
                  {"vision_tower.transformer.layers.1.", "no place"});
  // Embedding and head may have more rows than the vocabulary, and no fewer.
  EXPECT_NO_THROW(OpenCheckpoint(run(false), config({{"/text_config/vocab_size", 280}})));
  expect_mentions(refusal(run(false), {{"/text_config/vocab_size", 289}}),
                  {"[288, 48]", "[289, 48]"});
}

TEST_F(Load, AHeadThatTheConfigAsksForIsNotTakenFromTheEmbedding) {
  EXPECT_REFUSED(OpenCheckpoint("fixtures/megatron/import_tied", fs::path("fixtures/hf")), kHead,
                 "missing");
  EXPECT_TRUE(OpenCheckpoint("fixtures/megatron/import_tied", fs::path("fixtures/hf_tied"))
                  .config()
                  .text.tie_word_embeddings);
  EXPECT_FALSE(
      OpenCheckpoint(kRun, fs::path("fixtures/hf_tied")).config().text.tie_word_embeddings);
}

TEST_F(Load, OnlyAVocabularyIsCut) {
  const OpenCheckpoint opened(kRun);
  Ministral3 model(opened.config(), {at::kFloat, at::kCPU});
  for (const auto& [name, info] : opened.weights().tensors()) {
    const Padded padded(opened.weights(), name, 2);
    const auto load = [&] { load_weights(model, padded); };
    const auto whole = [&] { require_whole(padded, opened.config(), "here"); };
    if (name == kHead || name == "language_model.embedding.word_embeddings.weight") {
      EXPECT_NO_THROW(load());
      EXPECT_NO_THROW(whole());
      continue;
    }
    expect_mentions(error_of(load), {name, fmt::format("[{}", info.shape[0] + 2),
                                     fmt::format("[{}", info.shape[0])});
    expect_mentions(error_of(whole), {"here", name});
  }
}

TEST_F(Load, AGgufFileHasNoMoreTensorsThanItsKeysSay) {
  const OpenCheckpoint source("golden/tied");
  const GgufAssets assets{.tokenizer = {}, .image_break_id = 12};
  const GgufFiles files =
      export_gguf(source.weights(), source.config(), assets, directory_, {.name = "tiny"});
  EXPECT_NO_THROW(GgufSource::open(files.language));
  // A layer less: what would be loaded is another model.
  std::string bytes = read_text(files.language);
  const std::string key = "mistral3.block_count";
  char& layers = bytes.at(bytes.find(key) + key.size() + sizeof(uint32_t));
  ASSERT_EQ(layers, source.config().text.num_layers);
  --layers;
  write_text(files.language, bytes);
  EXPECT_REFUSED(GgufSource::open(files.language), "tiny-BF16.gguf",
                 fmt::format("blk.{}.", static_cast<int>(layers)), "no place");
}

}  // namespace
}  // namespace trestle
