// Checkpoints against each other, and the forward that holds a layer at a time; the numbers of
// `trestle compare` are held to torch's by cli/test_compare.py.
#include <cmath>

#include "bridge/compare.h"
#include "bridge/convert.h"
#include "bridge/gguf_source.h"
#include "bridge/streamed.h"
#include "errors.h"
#include "golden.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;

// Tensors in memory.
class Held : public TensorSource {
 public:
  explicit Held(std::map<std::string, at::Tensor> held) : held_(std::move(held)) {
    for (const auto& [name, tensor] : held_) infos_[name] = info_of(tensor);
  }
  const std::map<std::string, TensorInfo>& tensors() const override { return infos_; }
  at::Tensor read(const std::string& name) const override { return held_.at(name); }

 private:
  std::map<std::string, at::Tensor> held_;
  std::map<std::string, TensorInfo> infos_;
};

TEST(CompareTensors, SaysWhatDiffersAndByHowMuch) {
  const at::Tensor a = at::tensor({1.0f, -2.0f, 3.0f, 4.0f}).view({2, 2});
  at::Tensor moved = a.clone();
  moved[1][0] = 3.5f;
  const float nan = std::nanf("");
  const Held left({{"cast", a},
                   {"gone", a},
                   {"moved", a},
                   {"nan", at::tensor({nan, 1.0f})},
                   {"same", a},
                   {"shape", a},
                   {"both_nan", at::tensor({nan, 7.0f})}});
  const Held right({{"cast", a.to(at::kDouble)},
                    {"moved", moved},
                    {"nan", at::tensor({0.0f, 1.0f})},
                    {"new", a},
                    {"same", a.clone()},
                    {"shape", a.view({4, 1})},
                    {"both_nan", at::tensor({nan, 7.5f})}});
  std::map<std::string, TensorDifference> found;
  std::vector<std::string> order;
  for (TensorDifference& each : compare_tensors(left, right, true)) {
    order.push_back(each.name);
    found[each.name] = std::move(each);
  }
  EXPECT_EQ(order, (std::vector<std::string>{"both_nan", "cast", "gone", "moved", "nan", "new",
                                             "same", "shape"}));
  EXPECT_TRUE(found["same"].equal);
  EXPECT_EQ(found["same"].sha256_a, found["same"].sha256_b);
  EXPECT_EQ(found["same"].sha256_a.size(), 64u);
  EXPECT_FALSE(found["moved"].equal);
  EXPECT_EQ(found["moved"].max_error, 0.5);
  EXPECT_EQ(found["moved"].differing, 1);
  EXPECT_EQ(found["moved"].max_value, 4);
  EXPECT_NE(found["moved"].sha256_a, found["moved"].sha256_b);
  EXPECT_EQ(found["moved"].sha256_a, found["same"].sha256_a);
  EXPECT_FALSE(found["cast"].equal);
  EXPECT_EQ(found["cast"].max_error, 0);
  EXPECT_TRUE(std::isinf(found["nan"].max_error));
  EXPECT_EQ(found["both_nan"].max_error, 0.5);
  EXPECT_TRUE(std::isinf(found["shape"].max_error));
  EXPECT_EQ(found["shape"].differing, std::nullopt);
  EXPECT_FALSE(found["gone"].b);
  EXPECT_FALSE(found["new"].a);
  EXPECT_TRUE(std::isinf(found["new"].max_error));
}

// What is no number, or no finite one, in either; of every dtype that has such values.
TEST(CompareTensors, SaysWhatIsNoNumber) {
  const float nan = std::nanf(""), inf = HUGE_VALF;
  const auto difference = [](const at::Tensor& a, const at::Tensor& b) {
    return compare_tensors(Held({{"t", a}}), Held({{"t", b}}), false).front();
  };
  const at::Tensor a = at::tensor({nan, nan, inf, -inf, 1.0f, 4.0f});
  const at::Tensor b = at::tensor({1.0f, nan, inf, inf, inf, 3.5f});
  const at::Tensor complex_a = at::complex(a, at::zeros_like(a));
  const at::Tensor complex_b = at::complex(b, at::zeros_like(b));
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kComplexFloat}) {
    SCOPED_TRACE(at::toString(dtype));
    const bool is_complex = dtype == at::kComplexFloat;
    for (const bool turned : {false, true}) {
      const at::Tensor x = is_complex ? complex_a : a.to(dtype);
      const at::Tensor y = is_complex ? complex_b : b.to(dtype);
      const TensorDifference found = turned ? difference(y, x) : difference(x, y);
      EXPECT_EQ(found.differing, 4);
      EXPECT_EQ(found.nan, 1);
      EXPECT_EQ(found.infinite, 2);
      EXPECT_EQ(found.finite_error, 0.5);
      EXPECT_EQ(error_text(found), turned ? "0.5 of 3.5, NaN against a number at 1, infinity "
                                            "against another number at 2"
                                          : "0.5 of 4, NaN against a number at 1, infinity against "
                                            "another number at 2");
    }
  }
  // Of E8M0 0xFF is NaN, and there is neither infinity nor zero.
  const auto scales = [](std::vector<uint8_t> codes) {
    return at::tensor(codes, at::kByte).view(at::kFloat8_e8m0fnu);
  };
  const TensorDifference scale = difference(scales({0xFF, 127}), scales({127, 128}));
  EXPECT_EQ(error_text(scale), "1 of 1, NaN against a number at 1");
  // Two doubles whose difference is none.
  const at::Tensor large = at::tensor({1.5e308}, at::kDouble);
  EXPECT_EQ(error_text(difference(large, -large)), "1.8e+308 of 1.5e+308");
}

// Held to ml_dtypes (tools/make_packed_goldens.py).
class PackedGolden : public ::testing::Test {
 protected:
  Json said(const std::string& key) const { return Json::parse(b_.metadata().at(key)); }
  const SafetensorsFile a_{fs::path("bridge/golden/packed_a.safetensors")};
  const SafetensorsFile b_{fs::path("bridge/golden/packed_b.safetensors")};
};

TEST_F(PackedGolden, ValuesOfFourBits) {
  std::vector<std::byte> bytes(8);
  a_.read_rows("F4 codes", {0, 8}, bytes.data());
  const at::Tensor values = unpacked(*a_.tensors().at("F4 codes").packed, bytes);
  const auto wanted = said("values").get<std::vector<double>>();
  ASSERT_EQ(wanted.size(), 16u);
  EXPECT_EQ(std::vector(values.const_data_ptr<double>(), values.const_data_ptr<double>() + 16),
            wanted);
}

TEST_F(PackedGolden, DifferencesByValueWhereTheyAreDefined) {
  const Json wanted = said("differences");
  size_t by_value = 0;
  for (const TensorDifference& each : compare_tensors(a_, b_, true)) {
    SCOPED_TRACE(each.name);
    EXPECT_EQ(each.equal, each.sha256_a == each.sha256_b);
    if (!wanted.contains(each.name)) {
      // 6 bits: no specification says how they lie in bytes.
      EXPECT_TRUE(each.name.starts_with("F6_"));
      EXPECT_EQ(each.equal, each.name.ends_with("equal"));
      EXPECT_EQ(each.differing, each.equal ? std::optional<int64_t>(0) : std::nullopt);
      EXPECT_EQ(each.max_error, each.equal ? 0 : HUGE_VAL);
      continue;
    }
    ++by_value;
    const Json& numbers = wanted.at(each.name);
    EXPECT_EQ(each.differing, numbers[0].get<int64_t>());
    EXPECT_EQ(each.max_error, numbers[1].is_null() ? HUGE_VAL : numbers[1].get<double>());
    if (!each.equal) EXPECT_EQ(each.max_value, numbers[2].get<double>());
  }
  EXPECT_EQ(by_value, wanted.size());
}

// A type beside which the other's elements cannot be put.
TEST(CompareTensors, OfTwoPackings) {
  const testing::TempDir dir;
  const auto written = [&](const std::string& name, const std::string& entry) {
    const std::string header = R"({"t":)" + entry + "}";
    const uint64_t size = header.size();
    write_text(dir / name,
               std::string(reinterpret_cast<const char*>(&size), 8) + header + std::string(3, '1'));
    return SafetensorsFile(dir / name);
  };
  const SafetensorsFile f4 = written("a", R"({"dtype":"F4","shape":[6],"data_offsets":[0,3]})");
  const SafetensorsFile u8 = written("b", R"({"dtype":"U8","shape":[3],"data_offsets":[0,3]})");
  const SafetensorsFile f6 =
      written("c", R"({"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]})");
  const SafetensorsFile e3m2 =
      written("d", R"({"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3]})");
  for (const auto& [a, b] : {std::pair(&f4, &u8), {&f4, &f6}, {&f6, &e3m2}}) {
    const TensorDifference found = compare_tensors(*a, *b, true).front();
    EXPECT_FALSE(found.equal);
    EXPECT_EQ(found.differing, std::nullopt);
    EXPECT_TRUE(std::isinf(found.max_error));
    EXPECT_EQ(found.sha256_a, found.sha256_b);
    EXPECT_EQ(found.sha256_a.size(), 64u);
  }
}

// Whole numbers that are one double, and numbers of two parts.
TEST(CompareTensors, CountsElements) {
  const int64_t large = int64_t{1} << 53;
  const Held left({{"long", at::tensor({large, int64_t{7}})},
                   {"complex", at::complex(at::tensor({1.0f, 2.0f}), at::tensor({0.0f, 0.0f}))},
                   {"real", at::tensor({1.0f, 2.0f})},
                   {"zero", at::tensor({0.0f, 2.0f})}});
  const at::Tensor moved = at::complex(at::tensor({1.5f, 2.0f}), at::tensor({-3.0f, 0.0f}));
  const Held right({{"long", at::tensor({large + 1, int64_t{7}})},
                    {"complex", moved},
                    {"real", moved},
                    {"zero", at::tensor({-0.0f, 2.0f})}});
  std::map<std::string, TensorDifference> found;
  for (TensorDifference& each : compare_tensors(left, right, false)) found[each.name] = each;
  EXPECT_EQ(found["long"].differing, 1);
  EXPECT_EQ(found["long"].max_error, 1);
  for (const char* name : {"complex", "real"}) {
    EXPECT_EQ(found[name].differing, 1);
    EXPECT_EQ(found[name].max_error, 3);
  }
  EXPECT_FALSE(found["zero"].equal);
  EXPECT_EQ(found["zero"].differing, 0);
}

TEST(CompareLogits, IsTheDivergenceOfTheDistributions) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = ln 2 / 2 - ln 2 / 4.
  const at::Tensor a = at::tensor({2.0f, 1.0f, 1.0f}).log().view({1, 3});
  const at::Tensor b = at::tensor({1.0f, 2.0f, 1.0f}).log().view({1, 3}) + 5;
  const LogitDifference one = compare_logits(a, b);
  EXPECT_NEAR(one.mean_kl, std::log(2.0) / 4, 1e-7);
  EXPECT_EQ(one.same_top, 0);
  const LogitDifference two = compare_logits(at::cat({a, a}), at::cat({b, a}));
  EXPECT_NEAR(two.mean_kl, std::log(2.0) / 8, 1e-7);
  EXPECT_NEAR(two.max_kl, std::log(2.0) / 4, 1e-7);
  EXPECT_EQ(two.same_top, 1);
  EXPECT_EQ(two.positions, 2);
}

class Streamed : public ::testing::TestWithParam<const char*> {};

TEST_P(Streamed, ForwardIsTheModels) {
  const OpenCheckpoint checkpoint("golden/" + std::string(GetParam()));
  const ModelInput input = probe_input(checkpoint.config());
  EXPECT_EQ(input.images_CHW.empty(), !checkpoint.config().vision.has_value());
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto model = load_model(checkpoint, {dtype, at::kCPU});
    const at::NoGradGuard no_grad;
    const at::Tensor wanted = model->logits(input).to(at::kFloat);
    const at::Tensor got = streamed_logits(checkpoint.weights(), checkpoint.config(), dtype, input);
    // The head in blocks of the vocabulary may sum in another order, which in bf16 is a last place
    // of some logits. Those of the neighbouring position are far off.
    EXPECT_LE(testing::relative_error(got, wanted), dtype == at::kFloat ? 1e-6 : 1e-3);
    EXPECT_GT(testing::relative_error(got.roll(1, 0), wanted), 0.1);
  }
}

INSTANTIATE_TEST_SUITE_P(Compare, Streamed, ::testing::Values("tied", "untied", "mistral", "text"));

TEST(ProbeInput, ReachesBeyondTheOriginalContext) {
  const OpenCheckpoint checkpoint("golden/tied");
  const ModelInput input = probe_input(checkpoint.config());
  EXPECT_GT(input.positions_T.max().item<int64_t>(),
            checkpoint.config().text.rope.yarn->original_max_position_embeddings);
  EXPECT_LT(input.positions_T.max().item<int64_t>(),
            checkpoint.config().text.max_position_embeddings);
}

class Verify : public testing::InDirectory<> {
 protected:
  Verified verified() const {
    return verify_checkpoint(source_.weights(), source_.config(), {.dtype = at::kFloat}, {},
                             directory_ / "hf");
  }
  std::string refusal() const {
    return error_of<MachineError>([&] { verified(); });
  }
  void write() const {
    write_hf(source_.weights(), source_.config(), source_.config_json(), source_.side_files(),
             directory_ / "hf");
  }
  const OpenCheckpoint source_{fs::path("golden/untied")};
};

TEST_F(Verify, PassesWhatIsEqual) {
  write();
  const Verified done = verified();
  EXPECT_EQ(
      done.tensors,
      static_cast<int64_t>(SafetensorsFile(directory_ / "hf/model.safetensors").tensors().size()));
  EXPECT_EQ(done.logits.max_error, 0);
}

TEST_F(Verify, WithoutRoomForAForwardThereIsNone) {
  write();
  const Verified done =
      verify_checkpoint(source_.weights(), source_.config(),
                        {.dtype = at::kFloat, .max_memory = 1'000'000}, {}, directory_ / "hf");
  EXPECT_EQ(
      done.tensors,
      static_cast<int64_t>(SafetensorsFile(directory_ / "hf/model.safetensors").tensors().size()));
  expect_mentions(done.no_logits, {"--max-memory allows"});
}

TEST_F(Verify, FindsOneBit) {
  write();
  const fs::path file = directory_ / "hf/model.safetensors";
  std::string bytes = read_text(file);
  bytes[bytes.size() - 2] ^= 1;
  write_text(file, bytes);
  expect_mentions(refusal(), {"reads back off by"});
}

TEST_F(Verify, FindsAnotherConfig) {
  write();
  const fs::path file = directory_ / "hf/config.json";
  Json config = read_json(file);
  config["text_config"]["rope_parameters"]["factor"] = 3.0;
  write_text(file, config.dump());
  expect_mentions(refusal(), {"other logits"});
}

// users' pain point 3: what was trained cannot be exported.
TEST_F(Verify, NothingIsKeptOfWhatFails) {
  ConvertOptions options;
  options.verify = [](const fs::path& written) {
    EXPECT_TRUE(fs::exists(written / "model.safetensors"));
    machine_error("no");
  };
  EXPECT_EQ(error_of<MachineError>([&] {
              write_hf(source_.weights(), source_.config(), source_.config_json(), {},
                       directory_ / "hf", options);
            }),
            "no");
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(Verify, GgufAgainstItsTypes) {
  const OpenCheckpoint source("golden/tied");
  const GgufAssets assets{.tokenizer = {}, .image_break_id = 12, .image_mean = {}, .image_std = {}};
  for (const GgmlType type : {GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ8_0}) {
    Verified done;
    const GgufOptions options{.type = type, .name = "m", .verify = [&](const GgufFiles& files) {
                                done = verify_gguf(source.weights(), source.config(),
                                                   {.dtype = at::kFloat}, type, files);
                              }};
    const GgufFiles files =
        export_gguf(source.weights(), source.config(), assets, directory_, options);
    EXPECT_GT(done.tensors, 50);
    EXPECT_GT(done.logits.mean_kl, 0);
    EXPECT_LT(done.logits.mean_kl, type == GgmlType::kQ8_0 ? 0.1 : 0.02);
    // A bit of a weight, then a key.
    const auto edited = [&](auto&& edit) {
      std::string bytes = read_text(files.language);
      edit(bytes);
      write_text(directory_ / "m-edited.gguf", bytes);
      GgufFiles changed = files;
      changed.language = directory_ / "m-edited.gguf";
      return error_of<MachineError>([&] {
        verify_gguf(source.weights(), source.config(), {.dtype = at::kFloat}, type, changed);
      });
    };
    expect_mentions(edited([](std::string& bytes) { bytes[bytes.size() - 40] ^= 1; }),
                    {"reads back off by"});
    expect_mentions(edited([](std::string& bytes) {
                      const std::string key = "mistral3.rope.scaling.factor";
                      bytes[bytes.find(key) + key.size() + sizeof(uint32_t) + 2] ^= 0x20;
                    }),
                    {"the rotary embedding differs"});
  }
}

// Beside what an export holds itself, 0.2 GB measured, within --max-memory's 1.5 GB.
TEST(StreamedLogits, ThoseOf14BHaveRoomByDefault) {
  ModelConfig config = OpenCheckpoint("golden/untied").config();
  config.text.num_layers = 40;
  config.text.hidden_size = 5120;
  config.text.intermediate_size = 16384;
  config.text.num_attention_heads = 32;
  config.text.num_query_groups = 8;
  config.text.head_dim = 128;
  config.text.vocab_size = 131072;
  config.vision->num_layers = 24;
  config.vision->hidden_size = 1024;
  config.vision->intermediate_size = 4096;
  config.vision->num_attention_heads = 16;
  config.vision->head_dim = 64;
  // A decoder layer is the largest part: QKV, projection, gate and up, down, two norms.
  const uint64_t layer = (32 + 2 * 8) * 128 * 5120 + 32 * 128 * 5120 + 3 * 16384 * 5120 + 2 * 5120;
  // Logits of both models in fp32, and the blocks that the last is put together from.
  const auto tokens = static_cast<uint64_t>(probe_input(config).ids_T.numel());
  const uint64_t bytes = streamed_bytes(config, at::kBFloat16);
  EXPECT_EQ(bytes, 2 * layer + 3 * tokens * 131072 * sizeof(float));
  EXPECT_LT(static_cast<double>(bytes) / 1e9, 0.8);
}

}  // namespace
}  // namespace trestle
