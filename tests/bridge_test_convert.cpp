// HF -> Megatron -> HF on the fixtures that the real Megatron Bridge made, bit for bit.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "bridge/convert.h"
#include "bridge_testing.h"
#include "checkpoint/megatron.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

using Convert = InDirectory<::testing::Test>;

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

TEST_F(Convert, ErrorsAreOneLineAndLeaveNothing) {
  const fs::path run = directory_ / "run";
  EXPECT_NE(error_of([&] { import_checkpoint(directory_ / "absent", run); }).find("does not exist"),
            std::string::npos);
  fs::create_directories(directory_ / "bad");
  fs::copy("fixtures/hf", directory_ / "bad", fs::copy_options::recursive);
  Json config = read_json("fixtures/hf/config.json");
  config["text_config"]["intermediate_size"] = 81;
  fs::remove(directory_ / "bad/config.json");
  write_json(directory_ / "bad/config.json", config);
  const std::string error = error_of([&] { import_checkpoint(directory_ / "bad", run); });
  EXPECT_NE(error.find("[80, 48]"), std::string::npos) << error;
  EXPECT_NE(error.find("[81, 48]"), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(run));
  import_checkpoint("fixtures/hf", run);
  EXPECT_NE(error_of([&] { import_checkpoint("fixtures/hf", run); }).find("exist"),
            std::string::npos);
}

}  // namespace
}  // namespace trestle
