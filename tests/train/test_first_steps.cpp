// What the first steps of each recipe do to a small model.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "model/ministral3.h"
#include "recipes/recipes.h"
#include "temp_dir.h"
#include "train/trainer.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

// What a recipe is to train and how fast, by its name: written here and not read from it.
struct Meaning {
  double peak_rate = 0;
  bool adapters = false;
};

Meaning meaning_of(const std::string& name) {
  if (name == "demo_config") return {5e-3, true};
  if (name.ends_with("_peft_config")) return {1e-4, true};
  return {5e-6, false};
}

bool is_to_train(const std::string& parameter, const Meaning& meaning) {
  if (!meaning.adapters) return true;
  return parameter.starts_with("language_model.decoder.layers.") &&
         (parameter.ends_with(".linear_in.weight") || parameter.ends_with(".linear_out.weight"));
}

class FirstSteps : public testing::InDirectory<::testing::TestWithParam<std::string>> {
 protected:
  // Sixteen rows, each with a picture: every global batch holds each of them once or twice, so that
  // steps differ by the weights alone.
  void SetUp() override {
    const std::string picture = fs::absolute("image/golden/29x29.png").string();
    std::ofstream data(directory_ / "data.jsonl");
    for (int i = 0; i < 16; ++i) {
      data << R"({"messages": [{"role": "user", "content": [{"type": "image", "path": ")" << picture
           << R"("}, {"type": "text", "text": "count )" << i
           << R"("}]}, {"role": "assistant", "content": ")" << std::string(3 + i % 4, 'a')
           << "\"}]}\n";
    }
  }
};

std::vector<std::string> names_of_recipes() {
  std::vector<std::string> names;
  for (const Recipe& each : recipes()) names.push_back(each.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Recipes, FirstSteps, ::testing::ValuesIn(names_of_recipes()),
                         [](const auto& info) { return info.param; });

using Values = std::map<std::string, at::Tensor>;

Values values_of(Trainer& trainer) {
  Values values;
  for (const auto& entry : trainer.model().named_parameters()) {
    values[entry.key()] = entry.value().detach().clone();
  }
  return values;
}

// users' pain point 14: recipes that fail.
TEST_P(FirstSteps, MoveWhatItTrainsAtItsRates) {
  const Meaning meaning = meaning_of(GetParam());
  TrainConfig config = recipe(GetParam());
  config.checkpoint.pretrained_checkpoint = "../assets/demo/model";
  config.checkpoint.save = (directory_ / "run").string();
  config.dataset.maker_name = "jsonl";
  config.dataset.path_or_dataset = (directory_ / "data.jsonl").string();
  config.validation.eval_interval = 0;
  config.model.params_dtype = "float32";  // bf16 rounds a step of the warm-up away
  config.peft.dim = 4;
  config.train.exit_interval = 4;

  Trainer trainer(config);
  const Values start = values_of(trainer);
  Values before = start;
  std::vector<double> losses;
  trainer.run([&](const StepMetrics& metrics) {
    // Megatron's warm-up of ten steps from 0.
    const double rate = meaning.peak_rate * static_cast<double>(metrics.step - 1) / 10;
    EXPECT_DOUBLE_EQ(metrics.lr, rate) << metrics.step;
    losses.push_back(metrics.loss);
    Values after = values_of(trainer);
    for (const auto& [name, value] : after) {
      const double moved = (value - before.at(name)).abs().max().item<double>();
      // AdamW with these betas moves no value by more than the rate and the decay's share of it,
      // and fp32 rounds it.
      const double largest = before.at(name).abs().max().item<double>();
      const double rounding = rate == 0 ? 0 : 1.2e-7 * largest;
      EXPECT_LE(moved, 1.01 * rate * (1 + 0.1 * largest) + rounding)
          << name << " in step " << metrics.step;
      if (!is_to_train(name, meaning)) {
        EXPECT_EQ(moved, 0) << name;
      }
    }
    before = std::move(after);
  });
  ASSERT_EQ(losses.size(), 4u);
  int64_t trained = 0;
  for (const auto& [name, value] : before) {
    if (!is_to_train(name, meaning)) continue;
    ++trained;
    // Half a step of the first that has a rate.
    EXPECT_GT((value - start.at(name)).abs().max().item<double>(), 0.05 * meaning.peak_rate)
        << name;
  }
  EXPECT_EQ(trained, meaning.adapters ? 4 * 2 * trainer.model().config().text.num_layers
                                      : std::ssize(start));
  // The first step had no rate; each of the others is one down the slope.
  EXPECT_NEAR(losses[1], losses[0], 1e-6 * losses[0]);
  EXPECT_LT(losses[2], losses[1]);
  EXPECT_LT(losses[3], losses[2]);
  EXPECT_TRUE(fs::exists(directory_ / "run" / "iter_0000004"));
}

}  // namespace
}  // namespace trestle
