// GgufFile and GgufWriter against files and numbers of gguf-py (tools/make_gguf_goldens.py), and
// every way a header can lie.
#include <fstream>
#include <limits>

#include "formats/ggml.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "hf_testing.h"

namespace trestle {
namespace {

using namespace trestle::testing;

const fs::path kGolden = "formats/golden";

std::vector<std::byte> encoded(const at::Tensor& values, GgmlType type) {
  const GgmlLayout& layout = ggml_layout(type);
  std::vector<std::byte> bytes(static_cast<size_t>(values.numel() / layout.block * layout.bytes));
  EXPECT_TRUE(ggml_encode(values, type, bytes));
  return bytes;
}

TEST(Ggml, EncodesAndDecodesAsGgufPyToTheBit) {
  const SafetensorsFile golden(kGolden / "quants.safetensors");
  const at::Tensor values = golden.read("values");
  for (const auto& [name, type] : {std::pair{"q8_0", GgmlType::kQ8_0}, {"bf16", GgmlType::kBF16}}) {
    const at::Tensor wanted = golden.read(name);
    const auto bytes = encoded(values, type);
    ASSERT_EQ(bytes.size(), wanted.nbytes());
    const auto* expected = static_cast<const std::byte*>(wanted.const_data_ptr());
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), expected)) << name;
  }
  const at::Tensor read = ggml_decode_q8_0(encoded(values, GgmlType::kQ8_0));
  EXPECT_TRUE(same_bits(read.view(values.sizes()), golden.read("dequantized")));
}

TEST(Ggml, RefusesWhatATypeCannotHold) {
  std::vector<std::byte> bytes(34);
  const auto with = [](float value) {
    at::Tensor values = at::ones({32}, at::kFloat);
    values[7] = value;
    return values;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), 1e7f}) {
    EXPECT_FALSE(ggml_encode(with(bad), GgmlType::kQ8_0, bytes)) << bad;
  }
  EXPECT_TRUE(ggml_encode(with(8e6f), GgmlType::kQ8_0, bytes));
  bytes.resize(64);
  EXPECT_TRUE(ggml_encode(with(65519), GgmlType::kF16, bytes));
  EXPECT_FALSE(ggml_encode(with(65520), GgmlType::kF16, bytes));
  EXPECT_FALSE(ggml_encode(with(-65520).to(at::kBFloat16), GgmlType::kF16, bytes));
  EXPECT_TRUE(ggml_encode(with(65520), GgmlType::kBF16, bytes));
}

TEST(Ggml, KeepsAScaleThatHasNoInverseAtZero) {
  const auto bytes = encoded(at::full({32}, 1e-38, at::kFloat), GgmlType::kQ8_0);
  EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST(Gguf, ReadsAFileOfGgufPy) {
  const GgufFile file(kGolden / "small.gguf");
  const auto& keys = file.metadata();
  EXPECT_EQ(keys.at("general.architecture").text(), "mistral3");
  EXPECT_EQ(keys.at("k.uint8").integer(), 200);
  EXPECT_EQ(keys.at("k.int8").integer(), -100);
  EXPECT_EQ(keys.at("k.uint16").integer(), 60000);
  EXPECT_EQ(keys.at("k.int16").integer(), -30000);
  EXPECT_EQ(keys.at("k.uint32").integer(), 4000000000);
  EXPECT_EQ(keys.at("k.int32").integer(), -2000000000);
  EXPECT_EQ(keys.at("k.uint64").integer(), int64_t{1} << 62);
  EXPECT_EQ(keys.at("k.int64").integer(), -(int64_t{1} << 62));
  EXPECT_EQ(keys.at("k.float32").number(), 0.1f);
  EXPECT_EQ(keys.at("k.float64").number(), 0.1);
  EXPECT_EQ(keys.at("k.bool").integer(), 1);
  EXPECT_EQ(keys.at("k.string").text(), "a\nß\U0001f680");
  EXPECT_EQ(keys.at("k.strings").texts(), (std::vector<std::string_view>{"", "Ġa", "b"}));
  EXPECT_EQ(keys.at("k.ints").numbers(), (std::vector<double>{1, -2, 3}));
  EXPECT_EQ(keys.at("k.floats").numbers(), (std::vector<double>{0.5, -1.25}));
  EXPECT_EQ(keys.at("k.string").integer(), std::nullopt);
  EXPECT_EQ(keys.at("k.ints").texts(), std::nullopt);
  EXPECT_EQ(keys.at("k.strings").describe(), "3 strings");
  EXPECT_EQ(keys.at("k.string").describe(), "\"a\\nß\U0001f680\"");

  const at::Tensor f32 = file.read("f32");
  EXPECT_EQ(f32.sizes(), at::IntArrayRef({3, 64}));
  EXPECT_TRUE(same_bits(file.read("f16"), f32.to(at::kHalf)));
  EXPECT_TRUE(same_bits(file.read("bf16"), f32.to(at::kBFloat16)));
  const at::Tensor q8_0 = file.read("q8_0");
  EXPECT_EQ(file.stored("q8_0").name, "Q8_0");
  EXPECT_EQ(file.stored_bytes("q8_0"), 3u * 2 * 34);
  EXPECT_TRUE(same_bits(q8_0, ggml_decode_q8_0(encoded(f32, GgmlType::kQ8_0)).view({3, 64})));
  // Half a step of each block of 32, and what its scale loses in fp16.
  const at::Tensor largest = f32.view({3, 2, 32}).abs().amax(-1, /*keepdim=*/true);
  EXPECT_TRUE(((q8_0 - f32).view({3, 2, 32}).abs() <= largest * (0.5 / 127 + 1.0 / 2048))
                  .all()
                  .item<bool>());
  EXPECT_TRUE(same_bits(file.read("line"), f32[0].narrow(0, 0, 5)));
  EXPECT_TRUE(same_bits(file.read("conv"), f32.reshape({2, 3, 4, 8})));
}

TEST(Gguf, RoundTripsThroughTheWriter) {
  const TempDir dir;
  GgufMetadata keys;
  keys.set_text("general.uuid", "0000");
  keys.set_texts("t", std::vector<std::string>{"x", "yz"});
  keys.set_bool("b", false);
  keys.set_float("f", 0.25);
  const std::vector<double> floats = {1, 2.5};
  keys.set_floats("fs", floats);
  keys.set_uint32("u", 7);
  const std::vector<int32_t> ints = {-1, 5};
  keys.set_int32s("is", ints);
  // Larger than one piece of the writer, and sizes that leave padding behind.
  const at::Tensor large = at::randn({3, 64 * 32768}), line = at::randn({5});
  {
    GgufWriter writer(dir / "a.gguf", keys,
                      {{"large", {3, 64 * 32768}, GgmlType::kQ8_0},
                       {"half", {3, 64 * 32768}, GgmlType::kF16},
                       {"line", {5}, GgmlType::kF32}});
    writer.write("line", line.to(at::kDouble));
    writer.write("half", large);
    EXPECT_FALSE(fs::exists(dir / "a.gguf"));
    writer.write("large", large);
    writer.replace_text("general.uuid", "1234");
    writer.commit();
  }
  EXPECT_EQ(fs::file_size(dir / "a.gguf") % 32, 0u);
  const GgufFile file(dir / "a.gguf");
  EXPECT_EQ(file.metadata().at("general.uuid").text(), "1234");
  EXPECT_EQ(file.metadata().at("t").texts(), (std::vector<std::string_view>{"x", "yz"}));
  EXPECT_EQ(file.metadata().at("b").integer(), 0);
  EXPECT_EQ(file.metadata().at("f").number(), 0.25);
  EXPECT_EQ(file.metadata().at("fs").numbers(), floats);
  EXPECT_EQ(file.metadata().at("u").integer(), 7);
  EXPECT_EQ(file.metadata().at("is").numbers(), (std::vector<double>{-1, 5}));
  EXPECT_TRUE(same_bits(file.read("line"), line));
  EXPECT_TRUE(same_bits(file.read("half"), large.to(at::kHalf)));
  EXPECT_TRUE(same_bits(file.read("large"),
                        ggml_decode_q8_0(encoded(large, GgmlType::kQ8_0)).view(large.sizes())));
}

TEST(Gguf, RefusedValueLeavesNothing) {
  const TempDir dir;
  {
    GgufWriter writer(dir / "a.gguf", {}, {{"x", {2}, GgmlType::kF16}});
    EXPECT_REFUSED(writer.write("x", at::full({2}, 1e5)), "a.gguf", "tensor x", "F16", "bf16");
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

// A file from parts: what a hostile writer could make.
struct Raw {
  std::string bytes;
  template <class T>
  Raw& put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Raw& text(std::string_view value) {
    put(uint64_t{value.size()});
    bytes += value;
    return *this;
  }
  static Raw header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    Raw raw{"GGUF"};
    raw.put(version).put(tensors).put(keys);
    return raw;
  }
  Raw& tensor(std::string_view name, std::vector<uint64_t> shape, uint32_t type, uint64_t offset) {
    text(name).put(static_cast<uint32_t>(shape.size()));
    for (const uint64_t size : shape) put(size);
    return put(type).put(offset);
  }
  Raw& data(size_t size) {
    bytes.resize((bytes.size() + 31) / 32 * 32 + size);
    return *this;
  }
};

void expect_refused(const Raw& raw, const std::vector<std::string>& mentions) {
  const TempDir dir;
  write_text(dir / "bad.gguf", raw.bytes);
  const std::string message = error_of([&] { GgufFile file(dir / "bad.gguf"); });
  expect_mentions(message, {(dir / "bad.gguf").string()});
  expect_mentions(message, mentions);
}

TEST(Gguf, RefusesHostileHeaders) {
  constexpr uint64_t kHuge = uint64_t{1} << 60;
  expect_refused({"GGUX"}, {"not a GGUF file"});
  expect_refused({""}, {"not a GGUF file"});
  expect_refused({"GGUF\3"}, {"version", "truncated"});
  expect_refused(Raw::header(0, 0, 1), {"version 1"});
  expect_refused(Raw::header(0, 0, 3u << 24), {"little-endian"});
  expect_refused(Raw::header(kHuge, 0), {"tensors", std::to_string(kHuge)});
  expect_refused(Raw::header(0, UINT64_MAX), {"keys", std::to_string(UINT64_MAX)});
  expect_refused(Raw::header(0, 1).put(kHuge).put(kHuge), {"key", std::to_string(kHuge)});
  expect_refused(Raw::header(0, 1).text("k").put(13u).put(kHuge), {"key k", "kind 13"});
  expect_refused(Raw::header(0, 1).text("k").put(8u).put(kHuge), {"k at byte", "truncated"});
  expect_refused(Raw::header(0, 1).text("k").put(9u).put(0u).put(kHuge),
                 {"elements of k", std::to_string(kHuge)});
  expect_refused(Raw::header(0, 1).text("k").put(9u).put(8u).put(uint64_t{1}).put(kHuge),
                 {"k at byte", "truncated"});
  expect_refused(Raw::header(0, 1).text("k").put(9u).put(9u).put(uint64_t{0}), {"array of arrays"});
  expect_refused(Raw::header(0, 2).text("k").put(4u).put(1u).text("k").put(4u).put(1u),
                 {"key k appears twice"});
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 31}) {
    expect_refused(Raw::header(0, 1).text("general.alignment").put(4u).put(alignment),
                   {"general.alignment", std::to_string(alignment)});
  }
  expect_refused(Raw::header(0, 1).text("general.alignment").put(8u).text("32"),
                 {"general.alignment", "\"32\""});
}

TEST(Gguf, RefusesHostileTensors) {
  const std::string name(64, 'x');
  const uint64_t half = uint64_t{1} << 32;
  expect_refused(Raw::header(1, 0).tensor(name, {1}, 0, 0).data(64), {"64 bytes", "63"});
  expect_refused(Raw::header(1, 0).tensor("x", {1, 1, 1, 1, 1}, 0, 0).data(64), {"5 dimensions"});
  expect_refused(Raw::header(1, 0).tensor("x", {1}, 4, 0).data(64), {"tensor x", "type 4"});
  expect_refused(Raw::header(1, 0).tensor("x", {1}, UINT32_MAX, 0).data(64), {"tensor x"});
  expect_refused(Raw::header(1, 0).tensor("x", {half, half}, 0, 0).data(64), {"larger than any"});
  expect_refused(Raw::header(1, 0).tensor("x", {UINT64_MAX}, 0, 0).data(64), {"tensor x"});
  expect_refused(Raw::header(1, 0).tensor("x", {0, half, half}, 0, 0).data(64), {"larger than"});
  expect_refused(Raw::header(1, 0).tensor("x", {33}, 8, 0).data(64), {"33", "Q8_0", "32"});
  expect_refused(Raw::header(1, 0).tensor("x", {4}, 0, 8).data(64), {"offset 8", "32"});
  expect_refused(Raw::header(1, 0).tensor("x", {17}, 0, 0).data(64), {"68 bytes", "64 bytes"});
  expect_refused(Raw::header(1, 0).tensor("x", {16}, 0, UINT64_MAX - 31).data(64), {"truncated"});
  expect_refused(Raw::header(1, 0).tensor("x", {1}, 0, 0), {"0 bytes of data"});
  expect_refused(Raw::header(2, 0).tensor("x", {1}, 0, 0).tensor("x", {1}, 0, 32).data(64),
                 {"tensor x appears twice"});
  expect_refused(Raw::header(2, 0).tensor("x", {9}, 0, 0).tensor("y", {1}, 0, 32).data(64),
                 {"tensor y", "36", "overlap"});
}

TEST(Gguf, TypesWithoutADecoderAreListedAndNotRead) {
  const TempDir dir;
  write_text(dir / "q4.gguf", Raw::header(1, 0).tensor("x", {256, 2}, 12, 0).data(288).bytes);
  const GgufFile file(dir / "q4.gguf");
  EXPECT_EQ(file.stored("x").name, "Q4_K");
  EXPECT_EQ(file.stored_bytes("x"), 288u);
  EXPECT_EQ(file.tensors().at("x").shape, (std::vector<int64_t>{2, 256}));
  EXPECT_REFUSED(file.read("x"), "q4.gguf", "tensor x", "Q4_K");
  EXPECT_REFUSED(file.read("y"), "no tensor y");
}

TEST(Gguf, EveryPrefixOfAFileIsRefusedOrWhole) {
  const std::string whole = read_text(kGolden / "small.gguf");
  const TempDir dir;
  for (size_t size = 0; size + 32 < whole.size(); size += size < 900 ? 1 : 37) {
    // Not write_text, which would wait for the disk a thousand times.
    std::ofstream(dir / "cut.gguf", std::ios::binary) << std::string_view(whole).substr(0, size);
    EXPECT_REFUSED(GgufFile file(dir / "cut.gguf"), (dir / "cut.gguf").string());
  }
}

}  // namespace
}  // namespace trestle
