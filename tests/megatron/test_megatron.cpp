#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "formats/safetensors.h"
#include "hf_testing.h"
#include "megatron/checkpoint.h"
#include "megatron/names.h"
#include "megatron/writer.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::same_bits;
using testing::TempDir;

const fs::path kFixtures = "fixtures/megatron";

// Whatever the order of keys.
bool same_json(const Json& a, const Json& b) {
  return nlohmann::json::parse(a.dump()) == nlohmann::json::parse(b.dump());
}

ModelConfig tiny_config() {
  ModelConfig config;
  config.text.hidden_size = 48;
  config.text.intermediate_size = 80;
  config.text.num_layers = 3;
  config.text.num_attention_heads = 6;
  config.text.num_query_groups = 2;
  config.text.head_dim = 12;
  config.text.vocab_size = 288;
  config.text.max_position_embeddings = 262144;
  config.text.rope.theta = 1e6;
  YarnConfig& yarn = config.text.rope.yarn.emplace();
  yarn.factor = 16;
  yarn.original_max_position_embeddings = 16384;
  yarn.mscale = yarn.mscale_all_dim = 1;
  return config;
}

TensorList list_of(const std::map<std::string, TensorInfo>& tensors) {
  return {tensors.begin(), tensors.end()};
}

TEST(MegatronNames, Layers) {
  const auto layer = split_layer_name("language_model.decoder.layers.12.mlp.linear_fc1.weight");
  ASSERT_TRUE(layer);
  EXPECT_EQ(layer->layer, 12);
  EXPECT_EQ(layer->stacked(), "language_model.decoder.layers.mlp.linear_fc1.weight");
  EXPECT_EQ(layer->of_layer(3), "language_model.decoder.layers.3.mlp.linear_fc1.weight");
  const auto stacked = split_stacked_key("decoder.layers.mlp.linear_fc2.weight");
  ASSERT_TRUE(stacked);
  EXPECT_EQ(stacked->of_layer(0), "decoder.layers.0.mlp.linear_fc2.weight");
  EXPECT_FALSE(split_stacked_key("decoder.layers.0.mlp.linear_fc2.weight"));
  for (const char* name :
       {"vision_tower.transformer.layers.0.ffn_norm.weight", "subdecoder.layers.1.x",
        "language_model.decoder.final_layernorm.weight", "decoder.layers.1"}) {
    EXPECT_FALSE(split_layer_name(name)) << name;
  }
  EXPECT_FALSE(split_stacked_key("vision_tower.transformer.layers.0.ffn_norm.weight"));
}

// What the real bridge wrote with one process and with two, against plain torch's idea of the same
// tensors.
TEST(Megatron, FixturesEqualTheReference) {
  const SafetensorsFile reference(kFixtures / "megatron_reference.safetensors");
  for (const char* run : {"import", "tp2"}) {
    const MegatronCheckpoint checkpoint(kFixtures / run);
    EXPECT_EQ(checkpoint.iteration(), 0);
    EXPECT_FALSE(checkpoint.is_adapter());
    EXPECT_TRUE(checkpoint.state().empty());
    EXPECT_TRUE(checkpoint.tokenizer_directory());
    size_t expected = 0;
    for (const auto& [key, info] : reference.tensors()) {
      const at::Tensor whole = reference.read(key);
      const auto stacked = split_stacked_key(key);
      if (!stacked) {
        EXPECT_TRUE(same_bits(checkpoint.read(key), whole)) << run << ' ' << key;
        ++expected;
        continue;
      }
      EXPECT_TRUE(same_bits(checkpoint.reader().read(key), whole)) << run << ' ' << key;
      for (int64_t layer = 0; layer < info.shape[0]; ++layer, ++expected) {
        const std::string name = stacked->of_layer(layer);
        EXPECT_EQ(checkpoint.tensors().at(name), info_of(whole[layer])) << name;
        EXPECT_TRUE(same_bits(checkpoint.read(name), whole[layer])) << run << ' ' << name;
      }
    }
    EXPECT_EQ(checkpoint.tensors().size(), expected);
  }
}

TEST(Megatron, TiedFixture) {
  const MegatronCheckpoint checkpoint(kFixtures / "import_tied" / "iter_0000000");
  EXPECT_FALSE(checkpoint.tensors().contains("language_model.output_layer.weight"));
  EXPECT_TRUE(checkpoint.tensors().contains("language_model.embedding.word_embeddings.weight"));
  for (const auto& [name, info] : checkpoint.tensors())
    EXPECT_EQ(info_of(checkpoint.read(name)), info);
  ASSERT_TRUE(checkpoint.hf_config());
}

TEST(Megatron, TrainingFixture) {
  const MegatronCheckpoint checkpoint(kFixtures / "sft");
  EXPECT_EQ(checkpoint.iteration(), 2);
  const std::string name = "language_model.decoder.layers.1.mlp.linear_fc1.weight";
  size_t masters = 0;
  for (const auto& [weight, info] : checkpoint.tensors()) {
    const auto master = checkpoint.state().find("optimizer.state.param." + weight);
    ASSERT_NE(master, checkpoint.state().end()) << weight;
    // The fp32 master rounds to the bf16 weight.
    EXPECT_TRUE(
        same_bits(checkpoint.read(master->first).to(at::kBFloat16), checkpoint.read(weight)));
    ++masters;
  }
  EXPECT_EQ(checkpoint.state().size(), 3 * masters);
  EXPECT_GT(checkpoint.read("optimizer.state.exp_avg_sq." + name).max().item<float>(), 0);
  const Json& state = checkpoint.common_state();
  EXPECT_EQ(state["content_metadata"]["distrib_optim_sharding_type"], "fully_reshardable");
  EXPECT_EQ(state["optimizer"]["optimizer"]["param_groups"][1]["step"], 2);
  EXPECT_EQ(state["opt_param_scheduler"]["lr_decay_style"], "cosine");
  EXPECT_EQ(checkpoint.train_state()["step"], 2);
  EXPECT_EQ(checkpoint.train_state()["floating_point_operations_so_far"], 12345.0);
  EXPECT_EQ(checkpoint.train_state()["do_train"], true);
  // Every object is readable, random states with numpy arrays too.
  ASSERT_FALSE(checkpoint.reader().objects().empty());
  for (const std::string& key : checkpoint.reader().objects()) {
    EXPECT_TRUE(checkpoint.reader().object(key).json().is_array()) << key;
  }
}

TEST(Megatron, AdapterFixtures) {
  const MegatronCheckpoint lora(kFixtures / "lora");
  EXPECT_TRUE(lora.is_adapter());
  EXPECT_EQ(lora.base_checkpoint(), "import");
  EXPECT_EQ(lora.run_config()["peft"]["dim"], 4);
  EXPECT_EQ(lora.tensors().size(), 3u * 8);
  // The adapters again as the bridge exported them; q, k and v share linear_in.
  const SafetensorsFile exported(kFixtures / "adapter_lora" / "adapter_model.safetensors");
  for (int layer = 0; layer < 3; ++layer) {
    const std::string peft = fmt::format("base_model.model.language_model.model.layers.{}.", layer);
    const std::string ours = fmt::format("language_model.decoder.layers.{}.", layer);
    const auto expect_same = [&](const std::string& theirs, const std::string& name) {
      EXPECT_TRUE(at::equal(exported.read(peft + theirs).to(at::kBFloat16), lora.read(ours + name)))
          << theirs;
    };
    expect_same("self_attn.k_proj.lora_A.weight",
                "self_attention.linear_qkv.adapter.linear_in.weight");
    expect_same("self_attn.o_proj.lora_B.weight",
                "self_attention.linear_proj.adapter.linear_out.weight");
    expect_same("mlp.down_proj.lora_B.weight", "mlp.linear_fc2.adapter.linear_out.weight");
    const at::Tensor gate = exported.read(peft + "mlp.gate_proj.lora_B.weight");
    const at::Tensor up = exported.read(peft + "mlp.up_proj.lora_B.weight");
    EXPECT_TRUE(at::equal(at::cat({gate, up}).to(at::kBFloat16),
                          lora.read(ours + "mlp.linear_fc1.adapter.linear_out.weight")));
  }
  // dp_reshardable: flat buckets with padding between parameters, which only a padded read takes.
  const std::string bucket =
      "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, "
      "torch.float32).bucket_idx_0.param";
  ASSERT_TRUE(lora.state().contains(bucket));
  EXPECT_EQ(lora.reader().read_padded(bucket).size(0), 7648);
  EXPECT_EQ(lora.object("optimizer.distributed.dp_group_idx_0.per_bucket_numel")->dump(),
            R"x([{"(torch.bfloat16, torch.float32)":[7680]}])x");

  const MegatronCheckpoint dora(kFixtures / "dora");
  EXPECT_TRUE(dora.is_adapter());
  EXPECT_EQ(dora.tensors().size(), 3u * 12);
  const std::string magnitude =
      "language_model.decoder.layers.2.mlp.linear_fc1.adapter.weight_magnitude";
  EXPECT_EQ(dora.tensors().at(magnitude).shape, std::vector<int64_t>{160});
  EXPECT_EQ(dora.state().size(), 3u * 36);
  for (const auto& [name, info] : dora.state()) EXPECT_EQ(info_of(dora.read(name)), info) << name;
}

void copy_model(const MegatronCheckpoint& from, MegatronOutput output) {
  TensorList list = list_of(from.tensors());
  for (const auto& [name, info] : from.state()) list.emplace_back(name, info);
  MegatronWriter writer(std::move(output), list);
  // Backwards, since any order is allowed.
  for (auto entry = list.rbegin(); entry != list.rend(); ++entry) {
    writer.write(entry->first, from.read(entry->first));
  }
  writer.commit();
}

void expect_same(const MegatronCheckpoint& a, const MegatronCheckpoint& b) {
  EXPECT_EQ(a.tensors(), b.tensors());
  EXPECT_EQ(a.state(), b.state());
  for (const auto& [name, info] : a.tensors())
    EXPECT_TRUE(same_bits(a.read(name), b.read(name))) << name;
  for (const auto& [name, info] : a.state())
    EXPECT_TRUE(same_bits(a.read(name), b.read(name))) << name;
}

TEST(MegatronWriter, WritesWhatItReads) {
  const MegatronCheckpoint from(kFixtures / "tp2");
  for (const bool per_layer : {false, true}) {
    const TempDir scratch;
    const fs::path run = scratch / "run";
    copy_model(from, {.run = run,
                      .config = tiny_config(),
                      .hf_config = *from.hf_config(),
                      .tokenizer_files = {*from.tokenizer_directory() / "tokenizer.json"},
                      .per_layer_keys = per_layer});
    const MegatronCheckpoint back(run);
    expect_same(from, back);
    // The same keys on disk as the real one, `_extra_state` included; only common state has a file
    // of its own.
    if (!per_layer) {
      EXPECT_EQ(back.reader().tensors(), from.reader().tensors());
      std::vector<std::string> objects = from.reader().objects();
      std::erase(objects, "common_state/shard_0_1");
      EXPECT_EQ(back.reader().objects(), objects);
    } else {
      EXPECT_TRUE(back.reader().has_object(
          "language_model.decoder.layers.2.mlp.linear_fc1._extra_state/shard_0_1"));
      EXPECT_EQ(back.run_config()["model"]["hetereogenous_dist_checkpoint"], true);
    }
    Json config = *from.hf_config();
    config.erase("transformers_version");  // the class knows its own
    EXPECT_TRUE(same_json(*back.hf_config(), config)) << back.hf_config()->dump();
    EXPECT_TRUE(fs::exists(*back.tokenizer_directory() / "tokenizer.json"));
    EXPECT_EQ(read_text(run / "latest_checkpointed_iteration.txt"), "0");
    EXPECT_EQ(read_text(run / "latest_train_state.pt"),
              read_text(run / "iter_0000000" / "train_state.pt"));
    for (const auto& entry : fs::recursive_directory_iterator(run)) {
      EXPECT_EQ(entry.path().filename().string().find(".tmp"), std::string::npos) << entry.path();
    }
  }
}

TEST(MegatronWriter, TrainingState) {
  const MegatronCheckpoint from(kFixtures / "sft");
  const TempDir scratch;
  const fs::path run = scratch / "run";
  TensorList list = list_of(from.tensors());
  for (const auto& [name, info] : from.state()) list.emplace_back(name, info);
  list.emplace_back("trestle.rng", TensorInfo{at::kByte, {16}});
  const Json own = Json::parse(R"({"epoch": 1, "rows": [3, 1, 2], "seen": 0.5})");
  MegatronWriter writer(
      {.run = run,
       .iteration = 12,
       .config = tiny_config(),
       .common_state = {{"opt_param_scheduler", from.common_state()["opt_param_scheduler"]},
                        {"optimizer", from.common_state()["optimizer"]}},
       .train_state = {{"consumed_train_samples", 96}, {"do_train", true}},
       .run_config = {{"checkpoint", {{"pretrained_checkpoint", "base"}}}}},
      list);
  writer.add_object("trestle.position", own);
  for (const auto& [name, info] : list) {
    writer.write(name, name == "trestle.rng" ? at::arange(16, at::kByte) : from.read(name));
  }
  writer.commit();

  const MegatronCheckpoint back(run);
  EXPECT_EQ(back.iteration(), 12);
  EXPECT_EQ(back.directory(), run / "iter_0000012");
  EXPECT_EQ(back.tensors(), from.tensors());
  for (const auto& [name, info] : from.state())
    EXPECT_TRUE(same_bits(back.read(name), from.read(name)));
  EXPECT_TRUE(at::equal(back.read("trestle.rng"), at::arange(16, at::kByte)));
  EXPECT_EQ(back.object("trestle.position"), own);
  EXPECT_FALSE(back.object("trestle.absent"));
  EXPECT_EQ(back.common_state()["optimizer"], from.common_state()["optimizer"]);
  EXPECT_TRUE(
      same_json(back.common_state()["content_metadata"], from.common_state()["content_metadata"]));
  EXPECT_EQ(back.train_state()["consumed_train_samples"], 96);
  EXPECT_EQ(back.train_state()["step"], 12);
  EXPECT_EQ(back.base_checkpoint(), "base");
}

TEST(MegatronWriter, AdaptersHaveNoExtraState) {
  const MegatronCheckpoint from(kFixtures / "dora");
  const TempDir scratch;
  const fs::path run = scratch / "run";
  copy_model(from, {.run = run, .iteration = 2, .config = tiny_config()});
  const MegatronCheckpoint back(run);
  expect_same(from, back);
  EXPECT_TRUE(back.is_adapter());
  EXPECT_TRUE(back.reader().objects().empty());
}

TEST(MegatronWriter, NothingIsLeftWithoutCommit) {
  const MegatronCheckpoint from(kFixtures / "import");
  const TempDir scratch;
  const fs::path run = scratch / "run";
  const auto name = from.tensors().begin()->first;
  {
    MegatronWriter writer({.run = run, .config = tiny_config()}, list_of(from.tensors()));
    writer.write(name, from.read(name));
    EXPECT_THROW(writer.write(name, from.read(name)), c10::Error);
    EXPECT_THROW(writer.commit(), c10::Error);
    EXPECT_REFUSED(MegatronCheckpoint{run}, run.string() + " does not exist");
  }
  EXPECT_FALSE(fs::exists(run) && !fs::is_empty(run));
}

TEST(MegatronWriter, AnIterationIsReplacedOnlyOnDemand) {
  const MegatronCheckpoint from(kFixtures / "import_tied");
  const TempDir scratch;
  const fs::path run = scratch / "run";
  copy_model(from, {.run = run, .config = tiny_config()});
  EXPECT_REFUSED(copy_model(from, {.run = run, .config = tiny_config()}), "exists");
  copy_model(from, {.run = run, .config = tiny_config(), .replace = true});
  copy_model(from, {.run = run, .iteration = 1, .config = tiny_config()});
  EXPECT_EQ(MegatronCheckpoint(run).iteration(), 1);
  EXPECT_EQ(MegatronCheckpoint(run / "iter_0000000").iteration(), 0);
}

// singleton_local_shards stores the halves of linear_fc1 under two names.
TEST(Megatron, JoinsHalvesOfFc1) {
  const TempDir scratch;
  const fs::path run = scratch / "run";
  const std::string key = "language_model.decoder.layers.0.mlp.linear_fc1.weight";
  const at::Tensor gate = at::rand({4, 3}), up = at::rand({4, 3});
  MegatronWriter writer({.run = run, .config = tiny_config(), .per_layer_keys = true},
                        {{key + "_w", info_of(gate)}, {key + "_v", info_of(up)}});
  writer.write(key + "_v", up);
  writer.write(key + "_w", gate);
  writer.commit();
  const MegatronCheckpoint checkpoint(run);
  ASSERT_EQ(checkpoint.tensors().size(), 1u);
  EXPECT_TRUE(at::equal(checkpoint.read(key), at::cat({gate, up})));
  MegatronWriter half({.run = run, .iteration = 1, .config = tiny_config(), .per_layer_keys = true},
                      {{key + "_w", info_of(gate)}});
  half.write(key + "_w", gate);
  half.commit();
  EXPECT_REFUSED(MegatronCheckpoint{run}, "two halves");
}

TEST(Megatron, Trackers) {
  const TempDir scratch;
  const fs::path run = scratch / "run";
  fs::create_directories(run);
  EXPECT_REFUSED(MegatronCheckpoint{run}, "no Megatron checkpoint");
  EXPECT_REFUSED(MegatronCheckpoint{run / "absent"}, "does not exist");
  write_text(run / "latest_checkpointed_iteration.txt", "release\n");
  EXPECT_REFUSED(MegatronCheckpoint{run}, "does not exist");
  fs::copy(kFixtures / "import" / "iter_0000000", run / "release", fs::copy_options::recursive);
  EXPECT_EQ(MegatronCheckpoint(run).iteration(), 0);
  write_text(run / "latest_checkpointed_iteration.txt", "12x");
  EXPECT_REFUSED(MegatronCheckpoint{run}, "12x");
  // The train state goes before the text.
  fs::copy(kFixtures / "sft" / "latest_train_state.pt", run / "latest_train_state.pt");
  EXPECT_REFUSED(MegatronCheckpoint{run}, "iter_0000002");
}

TEST(Megatron, IncompleteDirectories) {
  const TempDir scratch;
  const fs::path path = scratch / "run";
  fs::copy(kFixtures / "import" / "iter_0000000", path, fs::copy_options::recursive);
  write_text(path / "metadata.json", R"({"sharded_backend": "zarr"})");
  EXPECT_REFUSED(MegatronCheckpoint{path}, "zarr");
  fs::remove(path / "metadata.json");
  EXPECT_REFUSED(MegatronCheckpoint{path}, "cut off");
  write_text(path / "metadata.json", R"({"sharded_backend": "torch_dist"})");
  fs::remove(path / "run_config.yaml");
  EXPECT_FALSE(MegatronCheckpoint(path).hf_config());
}

}  // namespace
}  // namespace trestle
