// Mistral's own form through the bridge: to Megatron and back, to Hugging Face and back, bit for
// bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/file.h"
#include "bridge/convert.h"
#include "checkpoint/mistral_checkpoint.h"
#include "checkpoint/mistral_names.h"
#include "hf_testing.h"
#include "megatron/checkpoint.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_equal;
using testing::expect_mentions;

class Mistral
    : public testing::InDirectory<::testing::TestWithParam<std::pair<const char*, const char*>>> {
 protected:
  fs::path native() const { return fs::path("fixtures") / GetParam().first; }
  fs::path hf() const { return fs::path("fixtures") / GetParam().second; }
};

// params.json without the keys that state nothing.
Json stated(const fs::path& directory) {
  Json params = read_json(directory / "params.json");
  for (auto entry = params.begin(); entry != params.end();) {
    entry = entry->is_null() ? params.erase(entry) : std::next(entry);
  }
  return nlohmann::json(params);  // keys in one order
}

TEST_P(Mistral, ImportsLikeTheHuggingFaceForm) {
  import_checkpoint(native(), directory_ / "a");
  import_checkpoint(hf(), directory_ / "b");
  expect_equal(MegatronCheckpoint(directory_ / "a"), MegatronCheckpoint(directory_ / "b"));
}

TEST_P(Mistral, ToMegatronAndBack) {
  import_checkpoint(native(), directory_ / "run");
  export_checkpoint(directory_ / "run", std::nullopt, directory_ / "back",
                    {.hf = {.spelling = HfSpelling::kMistral}});
  expect_equal(MistralCheckpoint(directory_ / "back"), MistralCheckpoint(native()));
  EXPECT_EQ(stated(directory_ / "back"), stated(native()));
  EXPECT_EQ(read_text(directory_ / "back/tekken.json"), read_text(native() / "tekken.json"));
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_ / "back"), {}), 3);
}

TEST_P(Mistral, ToHuggingFaceAndBack) {
  const OpenCheckpoint source(native());
  write_hf(source.weights(), source.config(), source.config_json(), source.side_files(),
           directory_ / "hf");
  EXPECT_FALSE(fs::exists(directory_ / "hf/params.json"));
  EXPECT_TRUE(fs::exists(directory_ / "hf/tekken.json"));
  expect_equal(HfCheckpoint(directory_ / "hf"), HfCheckpoint(hf()));
  const OpenCheckpoint exported(directory_ / "hf");
  write_hf(exported.weights(), exported.config(), exported.config_json(), exported.side_files(),
           directory_ / "back", {.hf = {.spelling = HfSpelling::kMistral}});
  expect_equal(MistralCheckpoint(directory_ / "back"), MistralCheckpoint(native()));
  EXPECT_EQ(stated(directory_ / "back"), stated(native()));
}

// The tensors in the file, not only as we read them: the inverse of transformers' converters.
TEST_P(Mistral, HuggingFaceToMistralEqualsTheFixture) {
  const OpenCheckpoint source(hf());
  write_hf(source.weights(), source.config(), source.config_json(), side_files(native()),
           directory_ / "m", {.hf = {.spelling = HfSpelling::kMistral}});
  const SafetensorsFile written(directory_ / "m/consolidated.safetensors");
  const MistralCheckpoint reference(native());
  ASSERT_EQ(written.tensors().size(), reference.tensors().size());
  for (const auto& [canonical, info] : reference.tensors()) {
    const HfStored& stored = reference.stored(canonical);
    EXPECT_TRUE(at::equal(written.read(stored.name), stored.file->read(stored.name)))
        << stored.name;
  }
  EXPECT_EQ(stated(directory_ / "m"), stated(native()));
}

// users' pain point 23: two forms in one directory.
TEST_P(Mistral, BothFormsInOneDirectory) {
  fs::copy(hf(), directory_ / "both", fs::copy_options::recursive);
  fs::copy(native(), directory_ / "both", fs::copy_options::recursive);
  // The forms can be told apart by one weight.
  const std::string name = "language_model.decoder.final_layernorm.weight";
  const OpenCheckpoint before(directory_ / "both");
  const at::Tensor norm = before.weights().read(name).clone();
  const fs::path file = directory_ / "both/model.safetensors";
  std::map<std::string, at::Tensor> tensors;
  TensorList list;
  {
    const SafetensorsFile source(file);
    for (const auto& [key, info] : source.tensors()) {
      tensors[key] = source.read(key).clone();
      list.emplace_back(key, info);
    }
  }
  tensors.at("language_model.model.norm.weight").zero_();
  SafetensorsWriter writer(file, list);
  for (const auto& [key, tensor] : tensors) writer.write(key, tensor);
  writer.commit();

  const auto read = [&](std::optional<CheckpointFormat> format) {
    return OpenCheckpoint(directory_ / "both", {}, format).weights().read(name);
  };
  EXPECT_TRUE(at::equal(read({}), at::zeros_like(norm)));
  EXPECT_TRUE(at::equal(read(CheckpointFormat::kHf), at::zeros_like(norm)));
  EXPECT_TRUE(at::equal(read(CheckpointFormat::kMistral), norm));
  import_checkpoint(directory_ / "both", directory_ / "run",
                    {.format = CheckpointFormat::kMistral});
  EXPECT_TRUE(at::equal(MegatronCheckpoint(directory_ / "run").read(name), norm));
}

// A run without a config of its own takes params.json's.
TEST_P(Mistral, GivesAMegatronRunItsConfig) {
  const OpenCheckpoint checkpoint(
      fs::path("fixtures/megatron") / (hf().filename() == "hf" ? "import" : "import_tied"),
      native());
  EXPECT_EQ(checkpoint.config().text.num_query_groups, 2);
  EXPECT_EQ(checkpoint.assets(), native());
}

TEST_P(Mistral, RefusesOtherShapesAndMissingTensors) {
  fs::copy(native(), directory_ / "bad", fs::copy_options::recursive);
  const Json good = read_json(native() / "params.json");
  const auto refusal = [&](const char* key, int64_t value) {
    Json params = good;
    params[key] = value;
    fs::remove(directory_ / "bad/params.json");
    write_json(directory_ / "bad/params.json", params);
    return error_of([&] { import_checkpoint(directory_ / "bad", directory_ / "run"); });
  };
  for (const auto& [key, value, words] :
       {std::tuple{"n_heads", 8, "[96, 48]"}, std::tuple{"hidden_dim", 88, "[88, 48]"},
        std::tuple{"n_layers", 4, "layers.3."}, std::tuple{"n_layers", 2, "layers.2."},
        std::tuple{"head_dim", 7, "must be even"}}) {
    expect_mentions(refusal(key, value), {words});
  }
  EXPECT_FALSE(fs::exists(directory_ / "run"));
}

// Blocks of rows that cut heads anywhere hold the same bytes as the whole.
TEST_P(Mistral, RowsOfAnyRangeEqualTheWhole) {
  const MistralCheckpoint read(native());
  const HfCheckpoint plain(hf());
  const MistralRows written(plain, plain.config());
  for (const TensorSource* source : std::initializer_list<const TensorSource*>{&read, &written}) {
    for (const auto& [name, info] : source->tensors()) {
      if (!rotary_heads(name, read.config())) continue;
      const at::Tensor whole = source->read(name).contiguous();
      const auto* bytes = static_cast<const std::byte*>(whole.const_data_ptr());
      const size_t row = info.row_bytes();
      for (const int64_t count : {int64_t{1}, int64_t{5}, int64_t{13}, info.rows()}) {
        for (int64_t first = 0; first + count <= info.rows(); first += 3) {
          std::vector<std::byte> out(static_cast<size_t>(count) * row);
          source->read_rows(name, {first, count}, out.data());
          EXPECT_EQ(std::memcmp(out.data(), bytes + static_cast<size_t>(first) * row, out.size()),
                    0)
              << name << " rows " << first << " and " << count;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Mistral,
                         ::testing::Values(std::pair{"mistral", "hf"},
                                           std::pair{"mistral_tied", "hf_tied"}));

}  // namespace
}  // namespace trestle
