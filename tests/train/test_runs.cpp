// Ten steps of whole runs against transformers, peft and torch's AdamW: with frozen parts, and of
// packed samples whose reference is each sample in a forward of its own.
#include <gtest/gtest.h>

#include "peft/lora.h"
#include "train/steps.h"

namespace trestle {
namespace {

using testing::batch_of;
using testing::expect_ten_steps;
using testing::Golden;

// As the goldens were made: tools/goldens/README.md.
constexpr AdamWOptions kFull{};
constexpr AdamWOptions kAdapters{.weight_decay = 0};

class FrozenParts : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Parts, FrozenParts,
                         ::testing::Values("language", "vision", "projection", "language_vision",
                                           "vision_projection"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(FrozenParts, TenLossesEqualTransformers) {
  const std::string parts = GetParam();
  const Golden data("untied"), golden("untied", "frozen.safetensors");
  const auto model = data.model();
  for (const auto& entry : model->named_parameters()) {
    const std::string& name = entry.key();
    const auto is_frozen = [&](const char* part, const char* prefix) {
      return parts.find(part) != std::string::npos && name.starts_with(prefix);
    };
    entry.value().requires_grad_(!is_frozen("language", "language_model.") &&
                                 !is_frozen("vision", "vision_tower.") &&
                                 !is_frozen("projection", "multi_modal_projector."));
  }
  expect_ten_steps(*model, batch_of(data), kFull, 1e-3, golden[parts + ".losses"],
                   golden[parts + ".grad_norms"]);
}

// The rows of a packed golden as samples.
std::vector<Sample> samples_of(const Golden& golden) {
  const at::Tensor ids = golden["input_ids"], labels = golden["labels"];
  const at::Tensor lengths = golden["lengths"], counts = golden["images_of_row"];
  const std::vector<at::Tensor> images = golden.images();
  std::vector<Sample> samples;
  auto image = images.begin();
  for (int64_t row = 0; row < ids.size(0); ++row) {
    const auto length = lengths[row].item<int64_t>();
    Sample sample;
    for (int64_t i = 0; i < length; ++i) {
      sample.ids.push_back(ids[row][i].item<int64_t>());
      sample.labels.push_back(i + 1 < length ? labels[row][i + 1].item<int64_t>() : -100);
    }
    const auto last = image + counts[row].item<int64_t>();
    sample.images_CHW.assign(image, last);
    image = last;
    samples.push_back(std::move(sample));
  }
  return samples;
}

// One row that holds all of them, in the order in which packing puts them.
Batch packed_row(const Golden& golden) {
  std::vector<Sample> samples = samples_of(golden), row;
  std::vector<int64_t> lengths;
  for (const Sample& sample : samples) lengths.push_back(std::ssize(sample.ids));
  const auto groups = packed_groups(lengths, 4096);
  for (const size_t i : groups.at(0)) row.push_back(samples[i]);
  EXPECT_EQ(row.size(), samples.size());
  return collate(row);
}

// users' pain point 15: no packing with pictures.
TEST(PackedRun, FullFineTuningEqualsTransformersOnEachSampleAlone) {
  const Golden golden("untied", "packed.safetensors");
  const auto model = Golden("untied").model();
  const Batch batch = packed_row(golden);
  EXPECT_GT(batch.input.packing.runs().size(), 1u);
  testing::mean_loss(*model, batch).backward();
  int64_t compared = 0;
  for (const auto& [theirs, ours] : std::map<std::string, std::string>{
           {"grad.model.vision_tower.ln_pre.weight", "vision_tower.ln_pre.weight"},
           {"grad.model.multi_modal_projector.linear_1.weight",
            "multi_modal_projector.linear_1.weight"},
           {"grad.model.language_model.layers.2.mlp.down_proj.weight",
            "language_model.decoder.layers.2.mlp.linear_fc2.weight"}}) {
    const at::Tensor gradient = model->named_parameters()[ours].grad();
    EXPECT_LE(testing::relative_error(gradient, golden[theirs]), 1e-4) << theirs;
    ++compared;
  }
  EXPECT_EQ(compared, 3);
  model->zero_grad();
  expect_ten_steps(*model, batch, kFull, 1e-3, golden["losses"], golden["grad_norms"]);
}

// users' pain point 15: no packing with pictures.
TEST(PackedRun, LoraEqualsPeftOnEachSampleAlone) {
  const Golden golden("tied", "packed_lora.safetensors");
  const auto model = Golden("tied").model();
  load_adapter(*model, "golden/tied/lora");
  const Batch batch = packed_row(golden);
  EXPECT_GT(batch.input.packing.runs().size(), 1u);
  expect_ten_steps(*model, batch, kAdapters, 1e-2, golden["losses"], golden["grad_norms"]);
}

}  // namespace
}  // namespace trestle
