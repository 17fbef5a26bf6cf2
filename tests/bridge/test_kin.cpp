// The other models of the family in small: against transformers, and through every form to the bit.
// Goldens: tools/goldens/kin.py. Their losses and greedy tokens: tests/train, tests/generate.
#include "base/file.h"
#include "bridge/convert.h"
#include "bridge/gguf.h"
#include "bridge/gguf_source.h"
#include "checkpoint/hf_checkpoint.h"
#include "checkpoint/mistral_checkpoint.h"
#include "golden.h"
#include "hf_testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_equal;
using testing::Golden;

class Kin : public testing::InDirectory<::testing::TestWithParam<const char*>> {
 protected:
  fs::path source() const { return Golden(GetParam()).directory; }
  // Of weights in another form, in fp32.
  at::Tensor logits_of(const fs::path& path) const {
    const at::NoGradGuard no_grad;
    return load_model(OpenCheckpoint(path), {at::kFloat, at::kCPU})
        ->logits(Golden(GetParam()).input());
  }
};

INSTANTIATE_TEST_SUITE_P(Models, Kin, ::testing::ValuesIn(testing::kKin), testing::test_name);

// users' pain point 35: a sibling read with Ministral 3's constants.
TEST_P(Kin, LogitsAreTransformers) {
  const Golden golden(GetParam());
  const TextConfig text = OpenCheckpoint(source()).config().text;
  const RopeFrequencies rope = rope_frequencies(text.rope, text.head_dim);
  EXPECT_LE(testing::relative_error(rope.inverse, golden["rope.inv_freq"]), 1e-6);
  EXPECT_NEAR(rope.attention_factor, golden["rope.attention_scaling"].item<double>(), 1e-6);
  testing::expect_near(logits_of(source()), golden["logits"], 1e-4, "logits");
}

TEST_P(Kin, ToMegatronAndBackIsBitExact) {
  import_checkpoint(source(), directory_ / "run");
  export_checkpoint(directory_ / "run", source(), directory_ / "back");
  export_checkpoint(directory_ / "run", std::nullopt, directory_ / "alone");
  const HfCheckpoint wanted(source());
  for (const char* name : {"back", "alone"}) {
    const HfCheckpoint got(directory_ / name);
    expect_equal(got, wanted);
    EXPECT_EQ(got.config().text.tie_word_embeddings, wanted.config().text.tie_word_embeddings);
    EXPECT_EQ(read_json(directory_ / name / "config.json")["architectures"],
              read_json(source() / "config.json")["architectures"]);
    EXPECT_TRUE(at::equal(logits_of(directory_ / name), logits_of(source()))) << name;
  }
}

// users' pain point 35: a sibling read with Ministral 3's constants.
TEST_P(Kin, ToMistralsFormAndBackIsBitExact) {
  const OpenCheckpoint open(source());
  const auto write = [&] {
    write_hf(open.weights(), open.config(), open.config_json(), side_files("fixtures/mistral"),
             directory_ / "native", {.hf = {.spelling = HfSpelling::kMistral}});
  };
  if (open.config().vision && open.config().vision->hidden_act == VisionConfig::Activation::kGelu) {
    EXPECT_REFUSED(write(), "params.json cannot state", "hidden_act");
    return;
  }
  write();
  EXPECT_TRUE(at::equal(logits_of(directory_ / "native"), logits_of(source())));
  const OpenCheckpoint native(directory_ / "native");
  write_hf(native.weights(), native.config(), native.config_json(), native.side_files(),
           directory_ / "back");
  expect_equal(HfCheckpoint(directory_ / "back"), HfCheckpoint(source()));
}

TEST_P(Kin, ToGgufAndBackKeepsEveryValue) {
  const OpenCheckpoint open(source());
  GgufAssets assets;
  assets.image_break_id = 12;
  const GgufFiles files = export_gguf(open.weights(), open.config(), assets, directory_,
                                      {.type = GgmlType::kBF16, .name = "kin"});
  const GgufSource gguf = GgufSource::open(files.language);
  const HfCheckpoint weights(source());
  ASSERT_EQ(gguf.tensors().size(), weights.tensors().size());
  for (const auto& [name, info] : weights.tensors()) {
    EXPECT_TRUE(at::equal(gguf.read(name).to(at::kFloat), weights.read(name).to(at::kFloat)))
        << name;
  }
  const TextConfig wanted = open.config().text, got = gguf.config().text;
  const RopeFrequencies a = rope_frequencies(got.rope, got.head_dim);
  const RopeFrequencies b = rope_frequencies(wanted.rope, wanted.head_dim);
  EXPECT_LE(testing::relative_error(a.inverse, b.inverse), 1e-6);
  EXPECT_NEAR(a.attention_factor, b.attention_factor, 1e-6);
  EXPECT_EQ(got.rope.llama_4_scaling_beta.value_or(0) > 0,
            wanted.rope.llama_4_scaling_beta.value_or(0) > 0);
}

}  // namespace
}  // namespace trestle
