// HfCheckpoint and HfWriter: the three spellings, shards, FP8, tied embeddings, round trips, and
// what is refused.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <set>

#include "base/fields.h"
#include "checkpoint/hf_checkpoint.h"
#include "checkpoint/hf_writer.h"
#include "hf_testing.h"

namespace trestle {
namespace {

using namespace trestle::testing;

void rename_all(NamedTensors& tensors, HfSpelling spelling) {
  for (auto& [name, tensor] : tensors) name = spelled_name(canonical_name(name), spelling);
}

at::Tensor* find(NamedTensors& tensors, const std::string& name) {
  for (auto& [other, tensor] : tensors) {
    if (other == name) return &tensor;
  }
  return nullptr;
}

void erase(NamedTensors& tensors, const std::string& name) {
  std::erase_if(tensors, [&](const auto& item) { return item.first == name; });
}

// Every tensor of `checkpoint` equals the fixture's under its canonical name.
void expect_equals_fixture(const HfCheckpoint& checkpoint, const fs::path& fixture) {
  size_t count = 0;
  for (const auto& [name, tensor] : read_safetensors(fixture / "model.safetensors")) {
    const std::string canonical = canonical_name(name);
    ASSERT_TRUE(checkpoint.tensors().contains(canonical)) << canonical;
    EXPECT_EQ(checkpoint.tensors().at(canonical), info_of(tensor));
    EXPECT_TRUE(same_bits(checkpoint.read(canonical), tensor)) << canonical;
    ++count;
  }
  EXPECT_EQ(checkpoint.tensors().size(), count);
}

void write_all(const HfCheckpoint& source, const fs::path& target, HfWriter::Options options) {
  const TensorList list(source.tensors().begin(), source.tensors().end());
  HfWriter writer(
      target, list,
      export_config(source.config_json(), source.config().text.tie_word_embeddings, at::kBFloat16),
      side_files(source.directory()), options);
  for (const auto& [name, info] : list) writer.write(name, source.read(name));
  EXPECT_FALSE(fs::exists(target) && !fs::is_empty(target));
  writer.commit();
}

std::vector<std::string> file_names(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename());
  return {names.begin(), names.end()};
}

TEST(HfCheckpoint, OpensTheFixtures) {
  const HfCheckpoint untied(kUntied);
  EXPECT_EQ(untied.spelling(), HfSpelling::kLanguageModelFirst);
  EXPECT_TRUE(untied.tensors().contains("model.layers.2.self_attn.q_proj.weight"));
  EXPECT_TRUE(untied.tensors().contains("vision_tower.ln_pre.weight"));
  EXPECT_TRUE(untied.tensors().contains("multi_modal_projector.linear_1.weight"));
  EXPECT_EQ(untied.stored("lm_head.weight").name, "language_model.lm_head.weight");
  EXPECT_FALSE(untied.config().text.tie_word_embeddings);
  EXPECT_EQ(side_files(untied.directory()).size(), 3u);
  expect_equals_fixture(untied, kUntied);

  const HfCheckpoint tied(kTied);
  EXPECT_TRUE(tied.config().text.tie_word_embeddings);
  EXPECT_FALSE(tied.tensors().contains("lm_head.weight"));
  expect_equals_fixture(tied, kTied);
}

TEST(HfCheckpoint, ReadsEverySpelling) {
  for (const auto spelling : {HfSpelling::kLanguageModelFirst, HfSpelling::kModelFirst}) {
    const TempDir dir;
    write_variant(kUntied, dir / "m", [&](auto& tensors, Json&) { rename_all(tensors, spelling); });
    const HfCheckpoint checkpoint(dir / "m");
    EXPECT_EQ(checkpoint.spelling(), spelling);
    expect_equals_fixture(checkpoint, kUntied);
  }
  const TempDir dir;
  write_variant(kUntied, dir / "m", [&](auto& tensors, Json& config) {
    rename_all(tensors, HfSpelling::kTextOnly);
    std::erase_if(tensors, [](const auto& item) {
      return !item.first.starts_with("model.") && item.first != "lm_head.weight";
    });
    config = config["text_config"];
  });
  const HfCheckpoint text_only(dir / "m");
  EXPECT_EQ(text_only.spelling(), HfSpelling::kTextOnly);
  EXPECT_FALSE(text_only.config().vision);
  EXPECT_EQ(text_only.tensors().size(), 30u);
  EXPECT_TRUE(same_bits(text_only.read("model.norm.weight"),
                        HfCheckpoint(kUntied).read("model.norm.weight")));
}

TEST(HfCheckpoint, IgnoresActivationScalesAndRopeTables) {
  const TempDir dir;
  write_variant(kUntied, dir / "m", [](auto& tensors, Json&) {
    tensors.emplace_back("language_model.model.layers.0.mlp.up_proj.activation_scale",
                         at::ones({}));
    tensors.emplace_back("language_model.model.layers.0.mlp.up_proj.input_scale", at::ones({}));
    tensors.emplace_back("language_model.model.rotary_emb.inv_freq", at::ones({6}));
  });
  expect_equals_fixture(HfCheckpoint(dir / "m"), kUntied);
}

TEST(HfCheckpoint, ShowsNamesItDoesNotKnow) {
  const TempDir dir;
  write_variant(kUntied, dir / "m", [](auto& tensors, Json&) {
    tensors.emplace_back("surprise.weight", at::ones({1}));
  });
  EXPECT_TRUE(HfCheckpoint(dir / "m").tensors().contains("surprise.weight"));
}

// --- FP8 ---

const std::string kQ = "language_model.model.layers.0.self_attn.q_proj.weight";  // [72, 48]
const std::string kUp = "language_model.model.layers.1.mlp.up_proj.weight";      // [80, 48]
const std::string kDown = "language_model.model.layers.2.mlp.down_proj.weight";  // [48, 80]

void quantize(NamedTensors& tensors, const std::string& name, const at::Tensor& scale) {
  at::Tensor* weight = find(tensors, name);
  *weight = (weight->to(at::kFloat) * 64).to(at::kFloat8_e4m3fn);
  tensors.emplace_back(name + "_scale_inv", scale);
}

TEST(HfCheckpoint, FoldsFp8ScalesOfEveryKind) {
  const TempDir dir;
  const at::Tensor scalar = at::scalar_tensor(0.015f);
  const at::Tensor rows = at::rand({80}) * 0.1;
  const at::Tensor blocks = at::rand({2, 3}) * 0.1;  // of 32 x 32
  NamedTensors written;
  write_variant(kUntied, dir / "m", [&](auto& tensors, Json& config) {
    quantize(tensors, kQ, scalar);
    quantize(tensors, kUp, rows);
    quantize(tensors, kDown, blocks);
    tensors.emplace_back("language_model.model.layers.0.self_attn.q_proj.activation_scale",
                         at::ones({}));
    config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {32, 32}}};
    written = tensors;
  });
  const HfCheckpoint checkpoint(dir / "m");
  EXPECT_EQ(checkpoint.tensors().size(), 54u);
  const auto expect = [&](const std::string& name, const at::Tensor& scale_OI) {
    const std::string canonical = canonical_name(name);
    EXPECT_EQ(checkpoint.tensors().at(canonical).dtype, at::kBFloat16);
    EXPECT_EQ(checkpoint.stored(canonical).info.dtype, at::kFloat8_e4m3fn);
    const at::Tensor golden = (find(written, name)->to(at::kFloat) * scale_OI).to(at::kBFloat16);
    EXPECT_TRUE(same_bits(checkpoint.read(canonical), golden)) << name;
  };
  expect(kQ, scalar);
  expect(kUp, rows.view({80, 1}));
  expect(kDown, at::kron(blocks, at::ones({32, 32})).slice(0, 0, 48).slice(1, 0, 80));
}

// users' pain point 1: FP8 checkpoints that do not load.
TEST(HfCheckpointBadInput, Fp8WithoutAFittingScale) {
  const auto error = [](const std::function<void(NamedTensors&)>& edit) {
    const TempDir dir;
    write_variant(kUntied, dir / "m", [&](auto& tensors, Json&) { edit(tensors); });
    const std::string message = error_of([&] { HfCheckpoint(dir / "m").require_weights(); });
    expect_mentions(message, {(dir / "m").string(), "model.safetensors"});
    return message;
  };
  const std::string q_scale = kQ + "_scale_inv";
  expect_mentions(error([&](auto& tensors) {
                    quantize(tensors, kQ, at::ones({}));
                    erase(tensors, q_scale);
                  }),
                  {kQ, "is FP8 but has no", q_scale});
  expect_mentions(error([&](auto& tensors) { quantize(tensors, kQ, at::ones({5})); }),
                  {kQ, "[5]", "[72, 48]"});
  expect_mentions(error([&](auto& tensors) { tensors.emplace_back(q_scale, at::ones({})); }),
                  {kQ, "BF16", "only FP8 weights are scaled"});
  expect_mentions(
      error([&](auto& tensors) { tensors.emplace_back("gone.weight_scale_inv", at::ones({})); }),
      {"gone.weight_scale_inv", "not there"});
  expect_mentions(
      error([&](auto& tensors) { *find(tensors, kQ) = find(tensors, kQ)->to(at::kFloat8_e5m2); }),
      {kQ, "F8_E5M2", "F8_E4M3"});
}

// Whole types only: those of 4 and 6 bits can be written by hand alone.
TEST(HfCheckpointBadInput, WeightsOfTypesThatAreNotRead) {
  for (const auto dtype : {at::kFloat8_e4m3fnuz, at::kFloat8_e5m2fnuz, at::kFloat8_e8m0fnu,
                           at::kByte, at::kInt, at::kBool, at::kComplexFloat}) {
    const TempDir dir;
    write_variant(kUntied, dir / "m", [&](NamedTensors& tensors, Json&) {
      at::Tensor& weight = *find(tensors, kQ);
      weight = at::zeros(weight.sizes(), at::kByte).to(dtype);
    });
    const std::string type(*safetensors_dtype(dtype));
    EXPECT_REFUSED(HfCheckpoint(dir / "m").require_weights(), kQ, type + " [");
  }
}

// --- tied embeddings ---

// users' pain point 6: tied embeddings.
TEST(HfCheckpoint, TheTensorsSettleAnOpenTie) {
  const struct {
    fs::path fixture;
    const char* text;
    const char* top;
    bool tied;
  } cases[] = {
      {kUntied, "", "", false},
      {kTied, "", "", true},
      // What transformers 5.23 writes for a checkpoint that had no flag at the top.
      {kUntied, "false", "true", false},
      {kTied, "false", "true", true},
      {kTied, "true", "false", true},
      {kTied, "true", "", true},
      {kTied, "", "true", true},
      {kUntied, "false", "", false},
      {kUntied, "", "false", false},
  };
  for (const auto& item : cases) {
    const TempDir dir;
    write_variant(item.fixture, dir / "m", [&](auto&, Json& config) {
      config.erase("tie_word_embeddings");
      config["text_config"].erase("tie_word_embeddings");
      if (*item.text) config["text_config"]["tie_word_embeddings"] = Json::parse(item.text);
      if (*item.top) config["tie_word_embeddings"] = Json::parse(item.top);
    });
    const HfCheckpoint checkpoint(dir / "m");
    EXPECT_EQ(checkpoint.config().text.tie_word_embeddings, item.tied)
        << item.text << "/" << item.top;
    EXPECT_EQ(checkpoint.tensors().contains("lm_head.weight"), !item.tied);
  }
}

// users' pain point 6: tied embeddings. What transformers 5.23 makes of every pair of flags
// (Mistral3ForConditionalGeneration): the top level decides, and true, its default, gives way to a
// head of its own.
TEST(HfCheckpoint, TheTopLevelDecidesTheTie) {
  enum Head { kDiffers, kEqual, kAbsent };
  const std::vector<std::optional<bool>> flags = {std::nullopt, true, false};
  for (const Head head : {kDiffers, kEqual, kAbsent}) {
    for (const auto& top : flags) {
      for (const auto& text : flags) {
        const TempDir dir;
        write_variant(kUntied, dir / "m", [&](auto& tensors, Json& config) {
          config.erase("tie_word_embeddings");
          config["text_config"].erase("tie_word_embeddings");
          if (top) config["tie_word_embeddings"] = *top;
          if (text) config["text_config"]["tie_word_embeddings"] = *text;
          const std::string name = "language_model.lm_head.weight";
          if (head == kEqual) {
            *find(tensors, name) =
                find(tensors, "language_model.model.embed_tokens.weight")->clone();
          }
          if (head == kAbsent)
            std::erase_if(tensors, [&](auto& each) { return each.first == name; });
        });
        const auto what = fmt::format("head {} top {} text {}", static_cast<int>(head),
                                      format_value(top), format_value(text));
        // It would draw a head at random.
        if (head == kAbsent && top == false && text != true) {
          EXPECT_REFUSED(HfCheckpoint(dir / "m"), "tie_word_embeddings=false", "no lm_head.weight");
          continue;
        }
        ::testing::internal::CaptureStderr();
        const HfCheckpoint checkpoint(dir / "m");
        const std::string said = ::testing::internal::GetCapturedStderr();
        const bool tied = head == kAbsent || (head == kEqual && top != false);
        EXPECT_EQ(checkpoint.config().text.tie_word_embeddings, tied) << what;
        EXPECT_EQ(checkpoint.tensors().contains("lm_head.weight"), !tied) << what;
        // Two tensors under a flag that is true by words and not by default: a line.
        const bool told =
            head == kDiffers && top != false && (text == true || (top == true && !text));
        EXPECT_EQ(said.find("taken as untied, as transformers does") != std::string::npos, told)
            << what << said;
        EXPECT_EQ(std::ranges::count(said, '\n'), told ? 1 : 0) << said;
      }
    }
  }
}

TEST(HfCheckpoint, HidesTheCopyOfATiedHead) {
  const TempDir dir;
  write_variant(kTied, dir / "m", [](auto& tensors, Json&) {
    tensors.emplace_back("lm_head.weight",
                         find(tensors, "language_model.model.embed_tokens.weight")->clone());
  });
  expect_equals_fixture(HfCheckpoint(dir / "m"), kTied);
}

// users' pain point 6: tied embeddings.
TEST(HfCheckpointBadInput, TieContradictions) {
  const TempDir dir;
  write_variant(kTied, dir / "b", [](auto&, Json& config) {
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = false;
  });
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir / "b"), "config.json", "tie_word_embeddings=false",
                 "no lm_head.weight");
}

// --- directories and shards ---

TEST(HfCheckpointBadInput, DirectoriesWithoutAModel) {
  const TempDir dir;
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir / "none"), "none", "does not exist");
  EXPECT_REFUSED(HfCheckpoint checkpoint(kUntied / "config.json"), "not a directory");
  fs::copy(kUntied / "config.json", dir / "config.json");
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir.path()), dir.path().string(), "model.safetensors",
                 "model.safetensors.index.json");
}

TEST(HfCheckpointBadInput, TwoTensorsUnderOneCanonicalName) {
  const TempDir dir;
  write_variant(kUntied, dir / "m", [](auto& tensors, Json&) {
    tensors.emplace_back("model.language_model.norm.weight", at::ones({48}));
  });
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir / "m"), "model.language_model.norm.weight",
                 "language_model.model.norm.weight");
}

class Sharded : public ::testing::Test {
 protected:
  void SetUp() override {
    write_all(HfCheckpoint(kUntied), dir_ / "m", {.max_shard_bytes = 64 * 1024});
  }
  fs::path index() const { return dir_ / "m/model.safetensors.index.json"; }
  // Edits weight_map and returns the error of opening the directory.
  std::string error_after(const std::function<void(Json&)>& edit) {
    Json json = read_json(index());
    edit(json["weight_map"]);
    write_json(index(), json);
    const std::string message = error_of([&] { HfCheckpoint checkpoint(dir_ / "m"); });
    expect_mentions(message, {"model.safetensors.index.json"});
    return message;
  }
  TempDir dir_;
};

TEST_F(Sharded, RoundTripsAndNamesShardsAsTransformersDoes) {
  EXPECT_EQ(file_names(dir_ / "m"),
            std::vector<std::string>(
                {"config.json", "generation_config.json", "model-00001-of-00004.safetensors",
                 "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors",
                 "model-00004-of-00004.safetensors", "model.safetensors.index.json",
                 "tokenizer.json", "tokenizer_config.json"}));
  uint64_t total = 0;
  for (const auto& [name, tensor] : read_safetensors(kUntied / "model.safetensors"))
    total += tensor.nbytes();
  EXPECT_EQ(read_json(index())["metadata"]["total_size"], total);
  expect_equals_fixture(HfCheckpoint(dir_ / "m"), kUntied);
}

TEST_F(Sharded, RefusesAnAbsentShard) {
  fs::remove(dir_ / "m/model-00002-of-00004.safetensors");
  expect_mentions(error_after([](Json&) {}),
                  {"model-00002-of-00004.safetensors", "does not exist", "tensor "});
}

TEST_F(Sharded, RefusesATruncatedShard) {
  const fs::path shard = dir_ / "m/model-00002-of-00004.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 1);
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir_ / "m"), shard.string(), "truncated");
}

TEST_F(Sharded, RefusesATensorThatIsNotInItsShard) {
  expect_mentions(
      error_after([](Json& map) { map["extra.weight"] = "model-00001-of-00004.safetensors"; }),
      {"extra.weight", "model-00001-of-00004.safetensors", "does not hold it"});
}

TEST_F(Sharded, RefusesATensorThatTheIndexDoesNotName) {
  expect_mentions(error_after([](Json& map) { map.erase("language_model.model.norm.weight"); }),
                  {"language_model.model.norm.weight", "does not name"});
}

TEST_F(Sharded, RefusesPathsThatLeaveTheDirectory) {
  for (const char* path : {"../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "."}) {
    expect_mentions(error_after([&](Json& map) { map["language_model.model.norm.weight"] = path; }),
                    {"language_model.model.norm.weight", path, "plain name"});
  }
}

TEST_F(Sharded, RefusesANameTooLongForAnyFile) {
  expect_mentions(error_after([](Json& map) {
                    map["language_model.model.norm.weight"] = std::string(5000, 'x');
                  }),
                  {"language_model.model.norm.weight", "does not exist"});
}

TEST_F(Sharded, RefusesAnIndexThatIsNone) {
  write_text(index(), "{\"weight_map\": {}}");
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir_ / "m"), "weight_map is missing or empty");
  write_text(index(), "{\"weight_map\": {\"a\": 1}}");
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir_ / "m"), "tensor a", "not a string");
  write_text(index(), "not json");
  EXPECT_REFUSED(HfCheckpoint checkpoint(dir_ / "m"), "index.json", "not valid JSON");
}

// --- writing ---

TEST(HfWriter, WritesTheFixtureBackBitExact) {
  for (const fs::path& fixture : {kUntied, kTied}) {
    const TempDir dir;
    write_all(HfCheckpoint(fixture), dir / "out", {});
    EXPECT_EQ(file_names(dir / "out"), file_names(fixture));
    const NamedTensors original = read_safetensors(fixture / "model.safetensors");
    const NamedTensors written = read_safetensors(dir / "out/model.safetensors");
    ASSERT_EQ(written.size(), original.size());
    for (size_t i = 0; i < original.size(); ++i) {
      EXPECT_EQ(written[i].first, original[i].first);
      EXPECT_TRUE(same_bits(written[i].second, original[i].second)) << written[i].first;
    }
    for (const char* name :
         {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}) {
      EXPECT_EQ(read_json(dir / "out" / name), read_json(fixture / name)) << name;
    }
  }
}

TEST(HfWriter, WritesEverySpelling) {
  const TempDir dir;
  write_all(HfCheckpoint(kUntied), dir / "out", {.spelling = HfSpelling::kModelFirst});
  const SafetensorsFile file(dir / "out/model.safetensors");
  for (const char* name :
       {"model.language_model.embed_tokens.weight", "lm_head.weight",
        "model.vision_tower.ln_pre.weight", "model.multi_modal_projector.norm.weight"}) {
    EXPECT_TRUE(file.tensors().contains(name)) << name;
  }
  expect_equals_fixture(HfCheckpoint(dir / "out"), kUntied);
  EXPECT_EQ(spelled_name("model.norm.weight", HfSpelling::kTextOnly), "model.norm.weight");
}

TEST(HfWriter, ATensorLargerThanAShardGetsItsOwn) {
  const TempDir dir;
  const TensorList list = {{"model.a", {at::kFloat, {4}}},
                           {"model.b", {at::kFloat, {100}}},
                           {"model.c", {at::kFloat, {4}}}};
  HfWriter writer(dir / "out", list, Json::object(), {}, {.max_shard_bytes = 32});
  for (auto item = list.rbegin(); item != list.rend(); ++item) {
    writer.write(item->first, at::ones(item->second.shape));
  }
  writer.commit();
  const Json map = read_json(dir / "out/model.safetensors.index.json")["weight_map"];
  EXPECT_EQ(map["language_model.model.b"], "model-00002-of-00003.safetensors");
  EXPECT_EQ(SafetensorsFile(dir / "out/model-00002-of-00003.safetensors").tensors().size(), 1u);
}

TEST(HfWriter, KeepsAnExistingModelUnlessToldToReplaceIt) {
  const TempDir dir;
  const HfCheckpoint source(kUntied);
  write_all(source, dir / "out", {});
  EXPECT_REFUSED(write_all(source, dir / "out", {}), "out", "not empty");
  expect_equals_fixture(HfCheckpoint(dir / "out"), kUntied);
  const TensorList list = {{"model.a", {at::kFloat, {1}}}};
  HfWriter writer(dir / "out", list, Json::object(), {}, {.replace = true});
  writer.write("model.a", at::ones({1}));
  expect_equals_fixture(HfCheckpoint(dir / "out"), kUntied);  // the old one until the commit
  writer.commit();
  EXPECT_EQ(file_names(dir / "out"),
            std::vector<std::string>({"config.json", "model.safetensors"}));
}

TEST(HfWriter, AnIncompleteModelIsOurBugAndLeavesNothing) {
  const TempDir dir;
  {
    HfWriter writer(dir / "out", {{"model.a", {at::kFloat, {1}}}, {"model.b", {at::kFloat, {1}}}},
                    Json::object(), {}, {});
    writer.write("model.a", at::ones({1}));
    EXPECT_THROW(writer.write("model.z", at::ones({1})), c10::Error);
    EXPECT_THROW(writer.commit(), c10::Error);
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(HfWriter, AFullDiskLeavesNothing) {
  const TempDir dir;
  const HfCheckpoint source(kUntied);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100 * 1024, old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = error_of<MachineError>([&] { write_all(source, dir / "out", {}); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  expect_mentions(message, {"model.safetensors", "cannot write"});
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(HfWriter, AReadOnlyDirectoryIsOneLine) {
  const TempDir dir;
  ASSERT_EQ(::chmod(dir.path().c_str(), 0555), 0);
  // Root passes every permission, so it steps down for the attempt.
  const bool root = ::geteuid() == 0;
  ASSERT_EQ(::seteuid(root ? 65534 : ::geteuid()), 0);
  const std::string message =
      error_of<MachineError>([&] { HfWriter writer(dir / "out", {}, Json::object(), {}, {}); });
  ASSERT_EQ(::seteuid(root ? 0 : ::geteuid()), 0);
  expect_mentions(message, {(dir / "out").string(), "Permission denied"});
  EXPECT_TRUE(fs::is_empty(dir.path()));
  ::chmod(dir.path().c_str(), 0755);
}

}  // namespace
}  // namespace trestle
