#include <gtest/gtest.h>

#include "base/error.h"
#include "formats/yaml.h"
#include "megatron/run_config.h"

namespace trestle {
namespace {

TEST(RunConfig, ANameWhereTheConfigShouldBe) {
  EXPECT_FALSE(
      hf_config_of_run_config(Json::parse(R"({"model": {"hf_config": {"_name_": "x"}}})")));
  EXPECT_FALSE(hf_config_of_run_config(
      Json::parse(R"({"model": {"hf_config": {"_target_": "a.b", "_call_": false}}})")));
}

TEST(RunConfig, HfConfigOfTheFixture) {
  const auto config =
      hf_config_of_run_config(read_yaml("fixtures/megatron/lora/iter_0000002/run_config.yaml"));
  ASSERT_TRUE(config);
  EXPECT_EQ((*config)["model_type"], "mistral3");
  EXPECT_EQ((*config)["dtype"], "bfloat16");
  EXPECT_EQ((*config)["text_config"]["rope_parameters"]["rope_theta"], 1e6);
  EXPECT_EQ((*config)["text_config"]["rms_norm_eps"], 1e-5);
  EXPECT_EQ((*config)["vision_config"]["patch_size"], 4);
  EXPECT_FALSE(config->contains("_target_"));
  EXPECT_FALSE(hf_config_of_run_config(Json::parse(R"({"model": {}})")));
}

TEST(RunConfig, WhatIsWrittenGivesTheConfigBack) {
  const Json hf =
      Json::parse(R"({"model_type": "mistral3", "dtype": "float32", "transformers_version": "5.0",
      "text_config": {"model_type": "ministral3", "hidden_size": 48}, "quantization_config": {"x": 1}})");
  ModelConfig config;
  config.text.rope.yarn.emplace().factor = 16;
  const Json run = make_run_config(hf, config, at::kBFloat16, true, false);
  const Json read = parse_yaml(dump_yaml(run), "test");
  EXPECT_EQ(read, run);
  EXPECT_EQ(read["model"]["hf_config"]["_target_"],
            "transformers.models.mistral3.configuration_mistral3.Mistral3Config");
  const Json back = *hf_config_of_run_config(read);
  EXPECT_EQ(back, Json::parse(R"({"text_config": {"model_type": "ministral3", "hidden_size": 48},
      "model_type": "mistral3", "dtype": "bfloat16"})"));
}

}  // namespace
}  // namespace trestle
