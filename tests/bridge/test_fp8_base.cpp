// A model that holds a checkpoint's FP8 weights as they are against the same one with their values.
#include <gtest/gtest.h>

#include "bridge/convert.h"
#include "bridge/load_quantized.h"
#include "bridge/streamed.h"
#include "errors.h"
#include "fp8_testing.h"
#include "golden.h"

namespace trestle {
namespace {

using testing::Fp8Form;
using testing::kPerBlock;
using testing::kPerOddBlock;
using testing::kPerRow;
using testing::kPerTensor;

constexpr Fp8Form kForms[] = {kPerTensor, kPerRow, kPerBlock, kPerOddBlock, testing::kPerWideBlock};
// Three layers of four in the language model, two of seven in the vision tower, three of the
// projector.
constexpr int64_t kLanguage = 12, kAll = 12 + 14 + 3;

class Fp8Base : public testing::InDirectory<> {
 protected:
  std::filesystem::path write(const Fp8Form& form,
                              const testing::IsFp8& is_fp8 = testing::is_language_projection) {
    const auto target = directory_ / fmt::format("{}{}", form.name, ++written_);
    write_fp8_model(target, form, is_fp8);
    return target;
  }

 private:
  int written_ = 0;
};

std::shared_ptr<Ministral3> load(const std::filesystem::path& path, at::ScalarType dtype,
                                 std::string_view bits) {
  return load_model(OpenCheckpoint(path), base_build(dtype, bits));
}

int64_t count_held(const Ministral3& model) {
  return std::ranges::count_if(projections(model),
                               [](const auto& each) { return each.second->fp8() != nullptr; });
}

// Every parameter, and the number of those in FP8.
void expect_same_values(const std::filesystem::path& path, int64_t held) {
  EXPECT_EQ(count_fp8(OpenCheckpoint(path).weights(), OpenCheckpoint(path).config()), held) << path;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto dense = load(path, dtype, "16"), model = load(path, dtype, "fp8");
    EXPECT_EQ(count_held(*dense), 0);
    EXPECT_EQ(count_held(*model), held) << path;
    const auto linears = projections(*model);
    const auto wanted = dense->named_parameters();
    ASSERT_EQ(model->named_parameters().size(), wanted.size());
    for (const auto& entry : model->named_parameters()) {
      const auto found = linears.find(entry.key());
      const bool in_fp8 = found != linears.end() && found->second->fp8() != nullptr;
      EXPECT_EQ(entry.value().is_meta(), in_fp8) << entry.key();
      const at::Tensor got = in_fp8 ? found->second->dense_weight() : entry.value();
      EXPECT_EQ(got.scalar_type(), dtype);
      EXPECT_TRUE(at::equal(got, wanted[entry.key()])) << path << " " << entry.key();
    }
  }
}

TEST_F(Fp8Base, ValuesAreThoseOfTheDenseModelToTheBit) {
  for (const Fp8Form& form : kForms) {
    expect_same_values(write(form), kLanguage);
    expect_same_values(write(form, testing::is_projection), kAll);
  }
}

TEST_F(Fp8Base, CodesGoToACardByItsTransfer) {
  const auto path = write(kPerRow);
  const OpenCheckpoint checkpoint(path);
  const auto model = load(path, at::kFloat, "fp8");
  int64_t held = 0;
  for (const auto& [name, linear] : projections(*model)) {
    if (linear->fp8() == nullptr) continue;
    Linear into(linear->fp8()->columns(), linear->fp8()->rows(), base_build(at::kFloat, "fp8"));
    Upload upload(make_transfer(at::kCPU));
    ASSERT_TRUE(hold_fp8(checkpoint.weights(), name, into, &upload)) << name;
    upload.finish();
    EXPECT_TRUE(at::equal(into.dense_weight(), linear->dense_weight())) << name;
    ++held;
  }
  EXPECT_EQ(held, kLanguage);
}

TEST_F(Fp8Base, CodesAndScalesAreTheFiles) {
  for (const Fp8Form& form : kForms) {
    const auto path = write(form);
    const SafetensorsFile file(path / "model.safetensors");
    const auto model = load(path, at::kFloat, "fp8");
    int64_t compared = 0;
    for (const Mapping& mapping : mappings(model->config())) {
      const auto linears = projections(*model);
      const auto found = linears.find(mapping.megatron);
      if (found == linears.end() || found->second->fp8() == nullptr) continue;
      const Fp8Weight& held = *found->second->fp8();
      std::vector<at::Tensor> codes = {held.codes().view(at::kByte)};
      if (mapping.hf.size() > 1) codes = mapping.layout.split(codes[0], 0);
      std::vector<at::Tensor> scales;
      for (size_t part = 0; part < mapping.hf.size(); ++part) {
        const std::string name = spelled_name(mapping.hf[part], HfSpelling::kLanguageModelFirst);
        EXPECT_TRUE(at::equal(codes[part], file.read(name).view(at::kByte))) << name;
        const at::Tensor scale = file.read(name + "_scale_inv");
        scales.push_back(scale.dim() == 0 ? scale.view({1, 1}) : scale);
        ++compared;
      }
      EXPECT_TRUE(at::equal(held.scales().values, at::cat(scales))) << mapping.megatron;
    }
    EXPECT_EQ(compared, 3 * 7) << form.name;
  }
}

// Of a projection that is fused of several, one may be in bf16, or have other scales.
TEST_F(Fp8Base, WhatIsNotWhollyFp8IsHeldAsItIs) {
  expect_same_values(write(kPerTensor,
                           [](const std::string& name) {
                             return testing::is_language_projection(name) &&
                                    name != "model.layers.1.self_attn.k_proj.weight" &&
                                    name != "model.layers.2.mlp.down_proj.weight";
                           }),
                     kLanguage - 2);
  const auto path = write(kPerBlock);
  auto tensors = testing::read_safetensors(path / "model.safetensors");
  for (auto& [name, tensor] : tensors) {
    if (name == "language_model.model.layers.0.mlp.up_proj.weight_scale_inv") {
      tensor = at::scalar_tensor(0.002);
    }
  }
  testing::write_safetensors(path / "model.safetensors", tensors);
  expect_same_values(path, kLanguage - 1);
  // Nothing is left: then the model is that of a checkpoint without FP8.
  expect_same_values(write(kPerTensor, [](const std::string&) { return false; }), 0);
}

// Its rows of q and k lie in another order, with their scales.
TEST_F(Fp8Base, MistralsFormIsTheSame) {
  for (const Fp8Form& form : {kPerTensor, kPerRow}) {
    const auto target = directory_ / form.name;
    testing::write_variant(
        "fixtures/mistral", target,
        [&](testing::NamedTensors& tensors, Json& params) {
          params["quantization"] = {{"qformat_weight", "fp8_e4m3"}};
          const size_t count = tensors.size();
          for (size_t i = 0; i < count; ++i) {
            const std::string name = tensors[i].first;
            if (!name.starts_with("layers.") || name.find("norm") != std::string::npos) continue;
            const auto [codes, scales] = testing::to_fp8(tensors[i].second.to(at::kFloat), form);
            tensors[i].second = codes;
            tensors.emplace_back(name.substr(0, name.rfind('.')) + ".qscale_weight", scales);
          }
        },
        "consolidated.safetensors", "params.json");
    std::filesystem::copy_file("fixtures/mistral/tekken.json", target / "tekken.json");
    expect_same_values(target, kLanguage);
  }
}

TEST_F(Fp8Base, LogitsAreThoseOfTheDenseModel) {
  for (const Fp8Form& form : kForms) {
    const auto path = write(form, testing::is_projection);
    const at::NoGradGuard no_grad;
    const ModelInput probe = probe_input(OpenCheckpoint(path).config());
    const at::Tensor wanted = load(path, at::kFloat, "16")->logits(probe);
    EXPECT_LE(testing::relative_error(load(path, at::kFloat, "fp8")->logits(probe), wanted), 1e-5)
        << form.name;
  }
}

// Whoever wants 8 or 4 bits gets those of the values.
TEST_F(Fp8Base, OtherFormsAreMadeOfTheValues) {
  const auto path = write(kPerTensor);
  const auto dense = load(path, at::kFloat, "16");
  for (const std::string bits : {"8", "4"}) {
    const auto model = load(path, at::kFloat, bits);
    EXPECT_EQ(count_held(*model), 0);
    EXPECT_EQ(std::ssize(quantized_weights(*model)), kAll);
  }
  const auto imported = directory_ / "megatron";
  import_checkpoint(path, imported, {});
  EXPECT_EQ(count_fp8(OpenCheckpoint(imported).weights(), dense->config()), 0);
  EXPECT_EQ(count_held(*load(imported, at::kFloat, "fp8")), 0);
}

TEST_F(Fp8Base, ScalesThatCannotBeAreRefusedByName) {
  const auto path = write(kPerTensor);
  const auto intact = testing::read_safetensors(path / "model.safetensors");
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    auto tensors = intact;
    for (auto& [name, tensor] : tensors) {
      if (name == "language_model.model.layers.1.mlp.gate_proj.weight_scale_inv") {
        tensor = at::scalar_tensor(bad);
      }
    }
    testing::write_safetensors(path / "model.safetensors", tensors);
    EXPECT_REFUSED(load(path, at::kFloat, "fp8"),
                   "tensor language_model.model.layers.1.mlp.gate_proj.weight", "not finite");
  }
}

}  // namespace
}  // namespace trestle
