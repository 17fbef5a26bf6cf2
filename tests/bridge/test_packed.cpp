// Weights in panels on disk: what is mapped is what a loader packs, and what is damaged is refused.
#include <gtest/gtest.h>

#include <array>

#include "bridge/check.h"
#include "bridge/compare.h"
#include "bridge/convert.h"
#include "bridge/load_quantized.h"
#include "checkpoint/packed_checkpoint.h"
#include "golden.h"
#include "hf_testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::Golden, testing::same_bits, testing::TempDir;

constexpr std::array kForms = {PanelForm::kBf16, PanelForm::kInt8, PanelForm::kInt4};

fs::path packed(const fs::path& source, const fs::path& target, PanelForm form,
                at::ScalarType dtype = at::kBFloat16) {
  const OpenCheckpoint checkpoint(source);
  write_packed(checkpoint.weights(), checkpoint.config(), checkpoint.config_json(),
               checkpoint.side_files(), form, dtype, target);
  return target;
}

OpenCheckpoint opened(const fs::path& directory) {
  return OpenCheckpoint(directory, {}, CheckpointFormat::kPacked);
}

std::shared_ptr<Ministral3> model_of(const OpenCheckpoint& checkpoint, PanelForm form,
                                     at::ScalarType dtype) {
  Build build{dtype};
  build.panels = form;
  return load_model(checkpoint, build);
}

class Packed : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, Packed, ::testing::Values("tied", "untied", "mistral", "text"));
INSTANTIATE_TEST_SUITE_P(Kin, Packed, ::testing::ValuesIn(testing::kKin), testing::test_name);

TEST_P(Packed, AModelHasTheBitsThatItsLoaderPacks) {
  const Golden golden(GetParam());
  for (const PanelForm form : kForms) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
      const TempDir temp;
      const OpenCheckpoint copy =
          opened(packed(golden.directory, temp.path() / "out", form, dtype));
      EXPECT_EQ(copy.packed(), form);
      EXPECT_EQ(copy.dtype(), dtype);
      const auto wanted = model_of(OpenCheckpoint(golden.directory), form, dtype);
      const auto given = model_of(copy, form, dtype);
      const auto ours = projections(*given);
      size_t matrices = 0;
      for (const auto& [name, linear] : projections(*wanted)) {
        ++matrices;
        EXPECT_TRUE(same_bits(ours.at(name)->panels()->panels(), linear->panels()->panels()))
            << name;
        // By way of the values too, as who reads them row by row has them.
        EXPECT_TRUE(same_bits(copy.weights().read(name), linear->panels()->dense(at::kBFloat16)))
            << name;
      }
      EXPECT_EQ(matrices, ours.size());
      const auto parameters = given->named_parameters();
      for (const auto& entry : wanted->named_parameters()) {
        if (!entry.value().is_meta()) {
          EXPECT_TRUE(same_bits(parameters[entry.key()], entry.value())) << entry.key();
        }
      }
      EXPECT_TRUE(check_packed(temp.path() / "out").problems.empty());
    }
  }
}

// The panels are not copied: they lie where the file is mapped, at a multiple of a cache line.
TEST(PackedFile, IsMapped) {
  const TempDir temp;
  const OpenCheckpoint copy =
      opened(packed(Golden("tied").directory, temp.path() / "out", PanelForm::kInt4));
  const auto model = model_of(copy, PanelForm::kInt4, at::kBFloat16);
  for (const auto& [name, linear] : projections(*model)) {
    EXPECT_EQ(linear->panels()->panels().const_data_ptr(),
              copy.weights().panels(name)->panels().const_data_ptr())
        << name;
  }
  const PackedCheckpoint file(temp.path() / "out");
  bool any = false;
  for (const auto& [name, info] : file.tensors()) {
    const auto held = file.panels(name);
    if (!held || held->shape().bytes() % 64 != 0) continue;
    any = true;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(held->panels().const_data_ptr()) % 32, 0) << name;
  }
  EXPECT_TRUE(any);
}

// Of a model that bf16 cannot say, the error is the codes', and is told.
TEST(PackedFile, IsVerified) {
  const Golden golden("untied");
  const OpenCheckpoint source(golden.directory);
  double before = 0;
  for (const PanelForm form : kForms) {
    const TempDir temp;
    const Verified done = verify_packed(source.weights(), source.config(), {},
                                        packed(golden.directory, temp.path() / "out", form));
    EXPECT_TRUE(done.no_logits.empty());
    EXPECT_GT(done.logits.mean_kl, before);
    before = done.logits.mean_kl;
  }
  EXPECT_LT(before, 0.1);
  const TempDir temp;
  EXPECT_FALSE(verify_packed(source.weights(), source.config(), {.max_memory = 1},
                             packed(golden.directory, temp.path() / "out", PanelForm::kInt8))
                   .no_logits.empty());
}

TEST(PackedFile, ValuesThatCodesCannotSayAreRefused) {
  const TempDir temp;
  testing::write_variant(testing::kTied, temp.path() / "nan",
                         [](testing::NamedTensors& tensors, Json&) {
                           for (auto& [name, tensor] : tensors) {
                             if (!name.ends_with("mlp.down_proj.weight")) continue;
                             tensor = tensor.clone();
                             tensor[0][0] = std::numeric_limits<double>::quiet_NaN();
                           }
                         });
  EXPECT_REFUSED(packed(temp.path() / "nan", temp.path() / "out", PanelForm::kInt8),
                 "mlp.linear_fc2.weight", "no finite number");
  EXPECT_FALSE(fs::exists(temp.path() / "out"));
}

// Others would take its rounded values for the checkpoint's.
TEST(PackedFile, IsNoCheckpointForOthers) {
  const TempDir temp;
  const fs::path out = packed(testing::kTied, temp.path() / "out", PanelForm::kInt8);
  EXPECT_REFUSED(OpenCheckpoint{out}, "weights in panels", "name the checkpoint");
  EXPECT_REFUSED(open_model_directory(out, choose_format(out).format), "weights in panels");
}

struct Damage {
  const char* key;
  const char* value;
  std::vector<std::string> words;
};

// Writes packed.safetensors anew with other metadata, or other tensors.
void rewrite(const fs::path& directory, const std::map<std::string, std::string>& changed,
             const std::function<void(testing::NamedTensors&)>& edit = {}) {
  const fs::path path = directory / "packed.safetensors";
  testing::NamedTensors tensors;
  std::map<std::string, std::string> metadata;
  {
    const SafetensorsFile file(path);
    metadata = file.metadata();
    for (const auto& [name, info] : file.tensors()) {
      tensors.emplace_back(name, file.read(name).clone());
    }
  }
  for (const auto& [key, value] : changed) metadata[key] = value;
  if (edit) edit(tensors);
  SafetensorsWriter writer(path, testing::list_of(tensors), metadata);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
}

TEST(PackedFile, DamagedWordsAreRefused) {
  const std::string name = "language_model.decoder.layers.0.mlp.linear_fc2.weight";
  const std::vector<Damage> damages = {
      {"format", "pt", {"pt", "trestle-packed"}},
      {"version", "2", {"version", "2", "reads 1"}},
      {"weights", "int3", {"int3"}},
      {"matrices", "[]", {"not an object"}},
      {"matrices", "{", {"matrices"}},
      {"matrices", R"({"x": ["int8", 16, 32]})", {"x is missing"}},
      {"matrices", R"({"x": ["int8", 16]})", {"x is", "[form, rows, columns]"}},
      {"matrices", R"({"x": ["int8", -16, 32]})", {"x is", "[form, rows, columns]"}},
      {"matrices", R"({"x": ["int8", 0, 32]})", {"x is said", "0 rows"}},
      {"matrices", R"({"x": ["int8", 16, 9000000000000000000]})", {"9000000000000000000"}},
      {"matrices",
       "{\"language_model.decoder.layers.0.mlp.linear_fc2.weight\": [\"int8\", 9, 9]}",
       {name, "[9, 9]", "is stored as U8"}},
      // Of the rest the config says more than these words.
      {"matrices", "{}", {"tensor", "[18, 1088]", "the config says"}},
  };
  for (const Damage& damage : damages) {
    const TempDir temp;
    const fs::path out = packed(testing::kTied, temp.path() / "out", PanelForm::kInt8);
    rewrite(out, {{damage.key, damage.value}});
    testing::expect_mentions(testing::error_of([&] { opened(out); }), damage.words);
  }
}

TEST(PackedFile, DamagedTensorsAreFound) {
  const TempDir temp;
  const fs::path out = packed(testing::kTied, temp.path() / "out", PanelForm::kInt4);
  rewrite(out, {}, [](testing::NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors) {
      if (name.ends_with("layers.0.mlp.linear_fc2.weight")) tensor[-1][-1] = 0xFF;  // of a scale
    }
  });
  const CheckReport report = check_packed(out);
  ASSERT_EQ(report.problems.size(), 1);
  EXPECT_NE(report.problems[0].find("layers.0.mlp.linear_fc2.weight"), std::string::npos);
  rewrite(out, {}, [](testing::NamedTensors& tensors) { tensors.erase(tensors.begin()); });
  EXPECT_FALSE(check_packed(out).problems.empty());
  EXPECT_NE(testing::refusal_of([&] { opened(out); }), std::nullopt);
}

}  // namespace
}  // namespace trestle
