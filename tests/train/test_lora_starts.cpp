// PiSSA and LoRA+ against peft's own: what they start from, ten steps, and PiSSA's way to the disk
// and back.
#include <gtest/gtest.h>

#include "checkpoint/hf_layout.h"
#include "golden.h"
#include "peft/lora.h"
#include "peft/peft_folder.h"
#include "peft/pissa.h"
#include "peft/sites.h"
#include "temp_dir.h"
#include "train/steps.h"

namespace trestle {
namespace {

using testing::batch_of;
using testing::expect_near;
using testing::expect_ten_steps;
using testing::Golden;

const std::vector<std::string> kEverywhere = {"q_proj",    "k_proj",    "v_proj",
                                              "o_proj",    "gate_proj", "up_proj",
                                              "down_proj", "vision.*",  "projector.*"};

// Ten steps of LoRA+, whose ratio of 1 is LoRA's.
void expect_losses(const Ministral3& model, double learning_rate, const at::Tensor& losses,
                   double ratio = 1) {
  expect_ten_steps(model, batch_of(Golden("tied")), {.weight_decay = 0, .lora_plus_ratio = ratio},
                   learning_rate, losses);
}

LoraConfig pissa_config() {
  LoraConfig config;
  config.scheme = "lora";
  config.dim = 4;
  config.alpha = 8;
  config.target_modules = kEverywhere;
  config.lora_A_init_method = "pissa";
  return config;
}

std::shared_ptr<Ministral3> pissa_model(const LoraConfig& config) {
  auto model = Golden("tied").model();
  attach_lora(*model, config, 1);
  take_initial_from_base(*model);
  return model;
}

// The rows of each of Hugging Face's modules in one site's tensor.
std::map<std::string, at::Tensor> by_module(const AdapterSite& site, const at::Tensor& tensor) {
  if (site.hf.size() == 1) return {{site.hf[0], tensor}};
  std::map<std::string, at::Tensor> result;
  const auto parts = site.linear->layout().split(tensor, 0);
  for (size_t i = 0; i < parts.size(); ++i) result[site.hf[i]] = parts[i];
  return result;
}

TEST(Pissa, StartsAsPefts) {
  const Golden golden("tied", "starts.safetensors");
  const auto model = pissa_model(pissa_config());
  size_t compared = 0;
  for (const AdapterSite& site : adapter_sites(*model)) {
    for (const auto& [module, residual] : by_module(site, site.linear->weight.detach())) {
      const std::string name = spelled_name(module, HfSpelling::kModelFirst);
      if (!golden.has("pissa.residual." + name)) continue;
      ++compared;
      expect_near(residual, golden["pissa.residual." + name], 1e-5, "residual " + name);
      const at::Tensor whole = site.linear->adapter()->merged(site.linear->weight);
      expect_near(by_module(site, whole).at(module) - residual, golden["pissa.update." + name],
                  1e-5, "update " + name);
    }
  }
  EXPECT_EQ(compared, 4u);
}

TEST(Pissa, LeavesTheModelAsItWas) {
  const Golden golden("tied");
  LoraConfig config = pissa_config();
  for (const auto& targets : {kEverywhere, std::vector<std::string>{"lm.*", "vision.linear_fc1"}}) {
    config.target_modules = targets;
    const auto model = pissa_model(config);
    const at::NoGradGuard no_grad;
    expect_near(model->logits(golden.input()), golden["logits"], 1e-4, "logits");
  }
}

TEST(Pissa, TenStepsArePeftsAndThePeftFolderIsOfTheOriginalBase) {
  const Golden golden("tied", "starts.safetensors"), data("tied");
  const auto model = pissa_model(pissa_config());
  expect_ten_steps(*model, batch_of(data), {.weight_decay = 0}, 1e-3, golden["pissa.losses"],
                   golden["pissa.grad_norms"]);
  const at::NoGradGuard no_grad;
  expect_near(model->logits(data.input()), golden["pissa.final.logits"], 1e-3, "final logits");

  const testing::TempDir scratch;
  save_peft_folder(*model, scratch / "folder");
  const auto again = data.model();
  load_adapter(*again, scratch / "folder");
  expect_near(again->logits(data.input()), model->logits(data.input()), 1e-4, "from the folder");
  for (const AdapterSite& site : adapter_sites(*again)) {
    for (const auto& pair : site.linear->adapter()->pairs()) EXPECT_EQ(pair->rank(), 8);
  }
}

TEST(Pissa, RankStabilised) {
  LoraConfig config = pissa_config();
  config.use_rslora = true;
  expect_losses(*pissa_model(config), 1e-3,
                Golden("tied", "starts.safetensors")["pissa_rslora.losses"]);
}

// The exact decomposition leaves the smallest residual there is (Eckart and Young 1936); a random
// one, refined, next to nothing more. Singular values that lie near each other need not be told
// apart for that.
TEST(Pissa, FastDecompositionLeavesNearlyTheSmallestResidual) {
  LoraConfig config = pissa_config();
  const auto exact = pissa_model(config);
  config.lora_A_init_method = "pissa_niter_16";
  const auto fast = pissa_model(config);
  const auto sites = adapter_sites(*exact), others = adapter_sites(*fast);
  for (size_t i = 0; i < sites.size(); ++i) {
    const double least = sites[i].linear->weight.norm().item<double>();
    const double ratio = others[i].linear->weight.norm().item<double>() / least;
    EXPECT_GE(ratio, 1 - 1e-5) << sites[i].name;
    EXPECT_LE(ratio, 1.01) << sites[i].name;
  }
  const at::NoGradGuard no_grad;
  const Golden golden("tied");
  expect_near(fast->logits(golden.input()), golden["logits"], 1e-4, "logits");
}

class LoraPlus : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Schemes, LoraPlus, ::testing::Values("lora_everywhere", "dora_everywhere"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(LoraPlus, TenStepsArePefts) {
  const auto model = Golden("tied").model();
  load_adapter(*model, std::string("golden/tied/") + GetParam());
  const Golden golden("tied", "starts.safetensors");
  expect_losses(*model, 1e-2, golden[std::string("lora_plus.") + GetParam() + ".losses"], 4);
}

}  // namespace
}  // namespace trestle
