// HF -> Megatron -> HF on the fixtures that the real Megatron Bridge made, bit for bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "bridge/convert.h"
#include "bridge/recast.h"
#include "checkpoint/hf_checkpoint.h"
#include "hf_testing.h"
#include "megatron/checkpoint.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_equal;

using Convert = testing::InDirectory<>;

// Every value that we write stands in the real bridge's run_config.yaml. One differs: transformers
// rounds YaRN's range (truncate), which the bridge did not read.
void expect_part_of(const Json& ours, const Json& theirs, const std::string& place) {
  for (const auto& [key, value] : ours.items()) {
    const std::string at = place + "." + key;
    if (key == "yarn_correction_range_round_to_int") continue;
    ASSERT_TRUE(theirs.contains(key)) << at;
    if (value.is_object()) {
      expect_part_of(value, theirs[key], at);
    } else {
      EXPECT_EQ(value, theirs[key]) << at;
    }
  }
}

TEST_F(Convert, RoundTripIsBitExact) {
  for (const std::string name : {"hf", "hf_tied"}) {
    const fs::path source = fs::path("fixtures") / name;
    const fs::path run = directory_ / (name + "-megatron");
    const fs::path back = directory_ / (name + "-back");
    import_checkpoint(source, run);
    export_checkpoint(run, source, back);
    const HfCheckpoint a(source), b(back);
    expect_equal(b, a);
    EXPECT_EQ(a.config().text.tie_word_embeddings, b.config().text.tie_word_embeddings);
    // Without the HF model beside it the run's own copies serve.
    export_checkpoint(run, std::nullopt, directory_ / (name + "-alone"));
    expect_equal(HfCheckpoint(directory_ / (name + "-alone")), a);
    EXPECT_TRUE(fs::exists(directory_ / (name + "-alone") / "tokenizer.json"));
  }
}

TEST_F(Convert, ImportEqualsTheRealBridge) {
  for (const auto& [hf, real] : {std::pair{"hf", "import"}, std::pair{"hf_tied", "import_tied"}}) {
    import_checkpoint(fs::path("fixtures") / hf, directory_ / real);
    const MegatronCheckpoint ours(directory_ / real), theirs(fs::path("fixtures/megatron") / real);
    expect_equal(ours, theirs);
    // The same keys on disk too, extra states included.
    std::vector<std::string> our_keys, their_keys;
    for (const auto& [key, info] : ours.reader().tensors()) our_keys.push_back(key);
    for (const auto& [key, info] : theirs.reader().tensors()) their_keys.push_back(key);
    EXPECT_EQ(our_keys, their_keys);
    expect_part_of(ours.run_config(), theirs.run_config(), "");
  }
}

TEST_F(Convert, AnotherDtypeRoundsOnceAsTorchDoes) {
  const HfCheckpoint source("fixtures/hf");
  for (const auto& [dtype, torchs] : {std::pair{WeightDtype::kFloat32, at::kFloat},
                                      {WeightDtype::kFloat16, at::kHalf},
                                      {WeightDtype::kBFloat16, at::kBFloat16}}) {
    const Recast cast(source, dtype);
    ASSERT_EQ(cast.tensors().size(), source.tensors().size());
    for (const auto& [name, info] : source.tensors()) {
      const at::Tensor got = cast.read(name), wanted = source.read(name).to(torchs);
      EXPECT_EQ(got.scalar_type(), torchs) << name;
      EXPECT_TRUE(at::equal(got, wanted)) << name;
    }
  }
}

// transformers quantises what has a quantization_config, and nothing else.
TEST_F(Convert, OnlyFp8SaysThatItIsQuantised) {
  for (const auto& [dtype, name] : {std::pair{WeightDtype::kFp8, "fp8"},
                                    {WeightDtype::kBFloat16, "bf16"},
                                    {WeightDtype::kFloat32, "fp32"}}) {
    ConvertOptions options;
    options.dtype = dtype;
    export_checkpoint("fixtures/megatron/import", "fixtures/hf", directory_ / name, options);
    const Json config = read_json(directory_ / name / "config.json");
    EXPECT_EQ(config.contains("quantization_config"), dtype == WeightDtype::kFp8) << name;
    if (dtype == WeightDtype::kFp8) {
      EXPECT_EQ(config["quantization_config"]["quant_method"], "fp8");
    }
  }
}

TEST_F(Convert, EveryModelFixtureExports) {
  for (const std::string name : {"import", "tp2"}) {
    export_checkpoint(fs::path("fixtures/megatron") / name, "fixtures/hf", directory_ / name);
    expect_equal(HfCheckpoint(directory_ / name), HfCheckpoint("fixtures/hf"));
  }
  export_checkpoint("fixtures/megatron/sft", "fixtures/hf", directory_ / "sft");
  EXPECT_EQ(HfCheckpoint(directory_ / "sft").tensors(), HfCheckpoint("fixtures/hf").tensors());
}

TEST_F(Convert, EveryModelFixtureComesBack) {
  for (const std::string name : {"import", "import_tied", "tp2", "sft"}) {
    const fs::path run = fs::path("fixtures/megatron") / name;
    export_checkpoint(run, std::nullopt, directory_ / (name + "-hf"));
    import_checkpoint(directory_ / (name + "-hf"), directory_ / (name + "-run"));
    expect_equal(MegatronCheckpoint(directory_ / (name + "-run")), MegatronCheckpoint(run));
  }
}

TEST_F(Convert, AnotherTypeInOneLayerIsRefused) {
  testing::write_variant("fixtures/hf", directory_ / "mixed", [](auto& tensors, Json&) {
    for (auto& [name, tensor] : tensors) {
      if (name.ends_with("layers.1.mlp.down_proj.weight")) tensor = tensor.to(at::kFloat);
    }
  });
  EXPECT_REFUSED(import_checkpoint(directory_ / "mixed", directory_ / "run"),
                 "layers.1.mlp.linear_fc2.weight", "Float", "BFloat16", "--dtype");
  EXPECT_FALSE(fs::exists(directory_ / "run"));
}

TEST_F(Convert, ErrorsAreOneLineAndLeaveNothing) {
  const fs::path run = directory_ / "run";
  EXPECT_REFUSED(import_checkpoint(directory_ / "absent", run), "does not exist");
  fs::create_directories(directory_ / "bad");
  fs::copy("fixtures/hf", directory_ / "bad", fs::copy_options::recursive);
  Json config = read_json("fixtures/hf/config.json");
  config["text_config"]["intermediate_size"] = 81;
  fs::remove(directory_ / "bad/config.json");
  write_json(directory_ / "bad/config.json", config);
  EXPECT_REFUSED(import_checkpoint(directory_ / "bad", run), "[80, 48]", "[81, 48]");
  EXPECT_FALSE(fs::exists(run));
  import_checkpoint("fixtures/hf", run);
  EXPECT_REFUSED(import_checkpoint("fixtures/hf", run), "exist");
}

}  // namespace
}  // namespace trestle
