// The export for llama.cpp, read back with our own reader; interop/test_gguf.py asks gguf-py and
// llama.cpp.
#include <fstream>
#include <set>

#include "bridge/gguf.h"
#include "bridge/gguf_source.h"
#include "errors.h"
#include "formats/gguf.h"
#include "golden.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
namespace fs = std::filesystem;

class Gguf : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    assets_.image_break_id = 12;
    assets_.image_mean = {0.5, 0.25, 0.125};
    assets_.image_std = {1, 2, 4};
  }
  GgufFiles exported(const OpenCheckpoint& source, GgmlType type) const {
    return export_gguf(source.weights(), source.config(), assets_, directory_,
                       {.type = type, .name = "tiny"});
  }

  GgufAssets assets_;
};

// users' pain point 22: GGUF without vision.
TEST_F(Gguf, WritesTheWeightsOfBothTowers) {
  const OpenCheckpoint source("golden/tied");
  const SafetensorsFile weights("golden/tied/model.safetensors");
  const GgufFiles files = exported(source, GgmlType::kBF16);
  EXPECT_EQ(files.language, directory_ / "tiny-BF16.gguf");
  EXPECT_EQ(files.mmproj, directory_ / "mmproj-tiny-BF16.gguf");
  const GgufFile language(files.language), mmproj(*files.mmproj);
  EXPECT_EQ(language.tensors().size() + mmproj.tensors().size(), weights.tensors().size() + 1);

  const at::Tensor embedding = weights.read("language_model.model.embed_tokens.weight");
  EXPECT_TRUE(at::equal(language.read("token_embd.weight"), embedding.to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(mmproj.read("v.token_embd.img_break"), embedding[12]));
  EXPECT_FALSE(language.tensors().contains("output.weight"));
  const std::string layer = "language_model.model.layers.1.";
  EXPECT_TRUE(at::equal(language.read("blk.1.ffn_norm.weight"),
                        weights.read(layer + "post_attention_layernorm.weight")));
  // Rows 0 and 1 of llama.cpp's head are what rotates together: rows 0 and H/2 of ours.
  const at::Tensor q = weights.read(layer + "self_attn.q_proj.weight").to(at::kBFloat16);
  const at::Tensor theirs = language.read("blk.1.attn_q.weight");
  const int64_t half = source.config().text.head_dim / 2;
  for (int64_t row = 0; row < q.size(0); ++row) {
    const int64_t head = row / (2 * half), within = row % (2 * half);
    const int64_t place = head * 2 * half + within % half * 2 + within / half;
    ASSERT_TRUE(at::equal(theirs[place], q[row])) << row;
  }
  EXPECT_TRUE(at::equal(language.read("blk.1.attn_v.weight"),
                        weights.read(layer + "self_attn.v_proj.weight").to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(mmproj.read("v.patch_embd.weight"),
                        weights.read("vision_tower.patch_conv.weight")));
}

// llama.cpp's names of the tensors (gguf-py's constants.py: TENSOR_NAMES).
TEST_F(Gguf, NamesAreLlamaCpps) {
  const OpenCheckpoint source("golden/tied");
  const GgufFiles files = exported(source, GgmlType::kF16);
  const auto names = [](const fs::path& path) {
    std::set<std::string> names;
    const GgufFile file(path);
    for (const auto& [name, info] : file.tensors()) names.insert(name);
    return names;
  };
  std::set<std::string> language = {"token_embd.weight", "output_norm.weight"};
  for (int64_t i = 0; i < source.config().text.num_layers; ++i) {
    for (const char* name : {"attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output",
                             "ffn_gate", "ffn_up", "ffn_down"}) {
      language.insert(fmt::format("blk.{}.{}.weight", i, name));
    }
  }
  EXPECT_EQ(names(files.language), language);
  std::set<std::string> vision = {
      "v.patch_embd.weight",  "v.pre_ln.weight",        "v.token_embd.img_break",
      "mm.input_norm.weight", "mm.patch_merger.weight", "mm.1.weight",
      "mm.2.weight"};
  for (int64_t i = 0; i < source.config().vision->num_layers; ++i) {
    for (const char* name : {"ln1", "ln2", "attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate",
                             "ffn_up", "ffn_down"}) {
      vision.insert(fmt::format("v.blk.{}.{}.weight", i, name));
    }
  }
  EXPECT_EQ(names(*files.mmproj), vision);
  // What has one axis stays in fp32: llama.cpp's kernels take norms as nothing else.
  for (const fs::path& path : {files.language, *files.mmproj}) {
    const GgufFile file(path);
    for (const auto& [name, info] : file.tensors()) {
      EXPECT_EQ(file.read(name).scalar_type() == at::kFloat, info.shape.size() == 1) << name;
    }
  }
  const SafetensorsFile weights("golden/tied/model.safetensors");
  EXPECT_TRUE(at::equal(GgufFile(*files.mmproj).read("v.blk.1.ln1.weight"),
                        weights.read("vision_tower.transformer.layers.1.attention_norm.weight")));
}

TEST_F(Gguf, AModelIsAFileOrADirectoryOfNoOtherForm) {
  const GgufFiles files = exported(OpenCheckpoint("golden/tied"), GgmlType::kF16);
  EXPECT_TRUE(is_gguf_model(files.language));
  EXPECT_TRUE(is_gguf_model(directory_));
  for (const char* config : {"config.json", "params.json"}) {
    std::ofstream(directory_ / config) << "{}";
    EXPECT_FALSE(is_gguf_model(directory_)) << config;
    fs::remove(directory_ / config);
  }
  EXPECT_FALSE(is_gguf_model("golden/tied"));
}

TEST_F(Gguf, StatesWhatTheConfigStates) {
  const GgufFiles files = exported(OpenCheckpoint("golden/tied"), GgmlType::kF16);
  const GgufFile language(files.language), mmproj(*files.mmproj);
  const auto& keys = language.metadata();
  EXPECT_EQ(keys.at("general.architecture").text(), "mistral3");
  EXPECT_EQ(keys.at("general.file_type").integer(), 1);
  EXPECT_EQ(keys.at("tokenizer.ggml.model").text(), "none");
  EXPECT_EQ(keys.at("mistral3.vocab_size").integer(), 160);
  EXPECT_EQ(keys.at("mistral3.attention.head_count").integer(), 6);
  EXPECT_EQ(keys.at("mistral3.attention.head_count_kv").integer(), 2);
  EXPECT_EQ(keys.at("mistral3.attention.key_length").integer(), 16);
  EXPECT_EQ(keys.at("mistral3.rope.freq_base").number(), 100);
  EXPECT_EQ(keys.at("mistral3.rope.scaling.type").text(), "yarn");
  EXPECT_EQ(keys.at("mistral3.rope.scaling.factor").number(), 8);
  EXPECT_EQ(keys.at("mistral3.rope.scaling.original_context_length").integer(), 16);
  EXPECT_EQ(keys.at("mistral3.rope.scaling.yarn_log_multiplier").number(), 0.5);
  EXPECT_EQ(keys.at("mistral3.attention.temperature_scale").number(), 0.3f);
  const auto& clip = mmproj.metadata();
  EXPECT_EQ(clip.at("clip.projector_type").text(), "pixtral");
  EXPECT_EQ(clip.at("clip.vision.block_count").integer(), 2);
  EXPECT_EQ(clip.at("clip.vision.projection_dim").integer(), 48);
  EXPECT_EQ(clip.at("clip.vision.image_mean").numbers(), (std::vector<double>{0.5, 0.25, 0.125}));
  EXPECT_EQ(clip.at("clip.use_silu").integer(), 1);
}

// users' pain point 22: GGUF without vision.
TEST_F(Gguf, FilesOfOneModelShareAnId) {
  const OpenCheckpoint source("golden/tied");
  std::set<std::string> ids;
  for (const GgmlType type : {GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ8_0}) {
    const GgufFiles files = exported(source, type);
    ids.insert(files.uuid);
    for (const fs::path& path : {files.language, *files.mmproj}) {
      EXPECT_EQ(GgufFile(path).metadata().at("general.uuid").text(), files.uuid);
    }
  }
  EXPECT_EQ(ids.size(), 1u);
  EXPECT_EQ(ids.begin()->size(), 36u);
}

TEST_F(Gguf, RefusesWhatLlamaCppCannotRun) {
  const auto refusal = [&](const std::string& model, auto&& edit) {
    const OpenCheckpoint source("golden/" + model);
    ModelConfig config = source.config();
    edit(config);
    const std::string message = error_of(
        [&] { export_gguf(source.weights(), config, assets_, directory_, {.name = "tiny"}); });
    EXPECT_TRUE(fs::is_empty(directory_)) << message;
    return message;
  };
  const auto as_is = [](ModelConfig&) {};
  expect_mentions(refusal("text", as_is), {"truncate=false"});
  expect_mentions(refusal("untied", as_is), {"rms_norm_eps=0.02"});
  expect_mentions(refusal("mistral", as_is), {"projector_hidden_act"});
  expect_mentions(refusal("tied",
                          [](ModelConfig& config) {
                            config.text.rope.llama_4_original_max_position_embeddings = 32;
                          }),
                  {"from 16 positions but the query scale from 32"});
  assets_.image_break_id.reset();
  expect_mentions(refusal("tied", as_is), {"[IMG_BREAK]"});
}

}  // namespace
}  // namespace trestle
