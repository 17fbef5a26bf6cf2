// checkpoint.hf_source_path: what it names is found wanting before the first step, and not by those
// who load what was saved.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "errors.h"
#include "formats/safetensors.h"
#include "peft/merged.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_mentions;

class HfSource : public testing::RunTest {
 protected:
  void SetUp() override {
    RunTest::SetUp();
    fs::copy("fixtures/hf", source_, fs::copy_options::recursive);
  }
  TrainConfig config_of(const std::string& name, const std::string& scheme) const {
    TrainConfig config = this->config(name, scheme);
    config.model.params_dtype = "float32";
    config.train.exit_interval = 1;
    config.checkpoint.also_save_hf_checkpoint = true;
    config.checkpoint.hf_source_path = source_.string();
    return config;
  }
  static std::optional<std::string> refusal(const TrainConfig& config) {
    return testing::refusal_of([&] { const Trainer trainer(config); });
  }
  // The source's weights anew, each as `change` leaves it; nothing leaves it out.
  template <class Change>
  void rewrite(const Change& change) const {
    std::map<std::string, at::Tensor> tensors;
    {
      const SafetensorsFile file("fixtures/hf/model.safetensors");
      for (const auto& [name, info] : file.tensors()) {
        const std::optional<at::Tensor> tensor = change(name, file.read(name).clone());
        if (tensor) tensors[name] = *tensor;
      }
    }
    TensorList list;
    for (const auto& [name, tensor] : tensors) list.emplace_back(name, info_of(tensor));
    SafetensorsWriter writer(source_ / "model.safetensors", list);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.commit();
  }

  const fs::path source_ = directory_ / "source";
  const std::string given_ = "checkpoint.hf_source_path=" + source_.string();
};

TEST_F(HfSource, WithoutAConfigIsRefusedByItsKey) {
  fs::remove(source_ / "config.json");
  for (const char* scheme : {"", "lora"}) {
    expect_mentions(refusal(config_of("run", scheme)), {given_ + " has no config.json; name"});
  }
  write_text(source_ / "config.json", "{");
  expect_mentions(refusal(config_of("run", "")), {given_ + ": ", "config.json"});
}

// The model that is saved would have none.
TEST_F(HfSource, OfAModelHasATokenizer) {
  fs::rename(source_ / "tokenizer.json", source_ / "tokenizer.txt");
  expect_mentions(refusal(config_of("run", "")),
                  {given_ + " has no tokenizer.json or tekken.json", "fixtures/hf there"});
  // An adapter's folder has none in any case.
  EXPECT_EQ(refusal(config_of("lora", "lora")), std::nullopt);
}

TEST_F(HfSource, OfAModelHasAProcessorWhereTheBaseHasOne) {
  fs::copy("fixtures/hf", directory_ / "base", fs::copy_options::recursive);
  write_text(directory_ / "base" / "preprocessor_config.json", "{}");
  TrainConfig config = config_of("run", "");
  config.checkpoint.pretrained_checkpoint = (directory_ / "base").string();
  expect_mentions(refusal(config), {given_ + " has no processor_config.json or preprocessor_"});
  write_text(source_ / "processor_config.json", "{}");
  EXPECT_EQ(refusal(config), std::nullopt);
}

// What an adapter names as its base is loaded with it: weights that are others make another model.
TEST_F(HfSource, OfAnAdapterHasTheRunsWeights) {
  const std::string norm = "language_model.model.norm.weight";
  const std::string ours = "language_model.decoder.final_layernorm.weight";
  const TrainConfig config = config_of("run", "lora");
  rewrite([&](const std::string&, const at::Tensor& tensor) { return tensor; });
  EXPECT_EQ(refusal(config), std::nullopt);
  rewrite([&](const std::string& name, at::Tensor tensor) {
    if (name == norm) tensor[0] += 1;
    return tensor;
  });
  expect_mentions(refusal(config),
                  {given_ + " is not the run's model: ", ours, "other values there"});
  // As wide as others store it, it is the same.
  rewrite([&](const std::string&, const at::Tensor& tensor) { return tensor.to(at::kFloat); });
  EXPECT_EQ(refusal(config), std::nullopt);
  rewrite([&](const std::string& name, const at::Tensor& tensor) {
    return name == norm ? tensor.narrow(0, 1, tensor.size(0) - 1).clone() : tensor;
  });
  expect_mentions(refusal(config), {given_ + ": ", "shape"});
  rewrite([&](const std::string& name, const at::Tensor& tensor) {
    return name == norm ? std::nullopt : std::optional(tensor);
  });
  expect_mentions(refusal(config), {given_ + ": ", "tensor model.norm.weight is missing"});
  fs::remove(source_ / "model.safetensors");
  expect_mentions(refusal(config), {given_ + ": ", "model.safetensors"});
  // Of a model the weights are the run's.
  EXPECT_EQ(refusal(config_of("full", "")), std::nullopt);
}

TEST_F(HfSource, OfAnAdapterIsFoundFromAnywhere) {
  TrainConfig config = config_of("run", "lora");
  config.checkpoint.hf_source_path = fs::relative(source_).string() + "/";
  run(config);
  const Json adapter =
      read_json(fs::path(config.checkpoint.save) / "iter_0000001/hf/adapter_config.json");
  const fs::path named = adapter["base_model_name_or_path"].get<std::string>();
  EXPECT_TRUE(named.is_absolute()) << named;
  EXPECT_TRUE(fs::equivalent(named, source_));
  EXPECT_EQ(base_name_from_anywhere("org/model"), "org/model");
  EXPECT_EQ(base_name_from_anywhere("org/model@main"), "org/model@main");
  EXPECT_EQ(base_name_from_anywhere(""), "");
  EXPECT_EQ(base_name_from_anywhere("fixtures/../fixtures/hf/"),
            (fs::current_path() / "fixtures/hf").string());
}

}  // namespace
}  // namespace trestle
