// Ten steps of LoRA and DoRA against peft's own and against Megatron's form in plain torch, on one
// batch from one start.
#include <gtest/gtest.h>

#include "checkpoint/hf_layout.h"
#include "golden.h"
#include "peft/lora.h"
#include "peft/sites.h"
#include "train/steps.h"

namespace trestle {
namespace {

using testing::batch_of;
using testing::expect_adapter_run;
using testing::expect_near;
using testing::Golden;
using testing::mean_loss;
using testing::trainable;

// Our name of peft's tensor:
// base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight is
// language_model.decoder.layers.0.mlp.linear_fc1.adapter.up_proj.linear_in.weight.
std::map<std::string, std::string> peft_names(const Ministral3& model) {
  std::map<std::string, std::string> names;
  for (const AdapterSite& site : adapter_sites(model)) {
    for (const std::string& each : site.hf) {
      const std::string theirs = "base_model.model." + spelled_name(each, HfSpelling::kModelFirst);
      const std::string part =
          site.hf.size() > 1 ? each.substr(each.rfind('.') + 1) + "." : std::string();
      names[site.name + ".adapter." + part + "linear_in.weight"] = theirs + ".lora_A.weight";
      names[site.name + ".adapter." + part + "linear_out.weight"] = theirs + ".lora_B.weight";
      names[site.name + ".adapter." + part + "weight_magnitude"] =
          theirs + ".lora_magnitude_vector";
    }
  }
  return names;
}

class PeftsForm : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Schemes, PeftsForm,
                         ::testing::Values("lora", "dora", "lora_towers", "lora_everywhere",
                                           "dora_everywhere"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(PeftsForm, TenStepsArePefts) {
  const Golden golden(std::string("tied/") + GetParam());
  const auto model = Golden("tied").model();
  load_adapter(*model, golden.directory);
  const auto names = peft_names(*model);
  const SafetensorsFile stored(golden.directory + "/adapter_model.safetensors");
  ASSERT_EQ(trainable(*model).size(), stored.tensors().size());
  const Golden data("tied");
  {
    const at::NoGradGuard no_grad;
    expect_near(model->logits(data.input()), golden["logits"], 1e-4, "logits");
  }
  mean_loss(*model, batch_of(data)).backward();
  for (const auto& [name, parameter] : trainable(*model)) {
    EXPECT_LE(testing::relative_error(parameter.grad(), golden["grad." + names.at(name)]), 1e-4)
        << name;
  }
  expect_adapter_run(*model, golden);
  for (const auto& [name, parameter] : trainable(*model)) {
    expect_near(parameter.detach(), golden["final." + names.at(name)], 1e-3, name);
  }
}

TEST(TrainLora, MegatronsFormWithItsSharedA) {
  const Golden golden("tied/lora_shared");
  const auto model = Golden("tied").model();
  LoraConfig config;
  config.dim = 4;
  config.alpha = 8;
  attach_lora(*model, config, 1);
  {
    const at::NoGradGuard no_grad;
    for (auto& [name, parameter] : trainable(*model)) parameter.copy_(golden[name]);
    expect_near(model->logits(Golden("tied").input()), golden["logits"], 1e-4, "logits");
  }
  const Golden data("tied");
  mean_loss(*model, batch_of(data)).backward();
  ASSERT_EQ(trainable(*model).size(), 24u);
  for (const auto& [name, parameter] : trainable(*model)) {
    EXPECT_LE(testing::relative_error(parameter.grad(), golden["grad." + name]), 1e-4) << name;
  }
  expect_adapter_run(*model, golden);
  for (const auto& [name, parameter] : trainable(*model)) {
    expect_near(parameter.detach(), golden["final." + name], 1e-3, name);
  }
}

}  // namespace
}  // namespace trestle
