// SafetensorsFile and SafetensorsWriter: every dtype, alignment, and every way a header can lie.
#include <sys/resource.h>

#include <csignal>

#include "hf_testing.h"

namespace trestle {
namespace {

using namespace trestle::testing;

// A file from raw parts, valid or not.
void write_raw(const fs::path& path, const std::string& header, const std::string& data,
               std::optional<uint64_t> claimed = {}) {
  const uint64_t length = claimed.value_or(header.size());
  std::string text(reinterpret_cast<const char*>(&length), sizeof(length));
  write_text(path, text + header + data);
}

std::string open_error(const std::string& header, const std::string& data,
                       std::optional<uint64_t> claimed = {}) {
  const TempDir dir;
  write_raw(dir / "bad.safetensors", header, data, claimed);
  const std::string message = error_of([&] { SafetensorsFile file(dir / "bad.safetensors"); });
  expect_mentions(message, {(dir / "bad.safetensors").string()});
  return message;
}

TEST(Safetensors, ReadsTheFixtureThatTransformersWrote) {
  const SafetensorsFile file(kUntied / "model.safetensors");
  EXPECT_EQ(file.tensors().size(), 54u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const TensorInfo& info = file.tensors().at("vision_tower.patch_conv.weight");
  EXPECT_EQ(describe(info), "BF16 [24, 3, 4, 4]");
  const at::Tensor weight = file.read("vision_tower.patch_conv.weight");
  EXPECT_TRUE(weight.is_contiguous());
  EXPECT_EQ(weight.sizes(), at::IntArrayRef({24, 3, 4, 4}));
}

TEST(Safetensors, ViewsTheMapAndKeepsItAlive) {
  const TempDir dir;
  const at::Tensor values = at::arange(6, at::kFloat).view({2, 3});
  write_safetensors(dir / "a.safetensors", {{"x", values}});
  at::Tensor first;
  {
    const SafetensorsFile file(dir / "a.safetensors");
    first = file.read("x");
    EXPECT_EQ(first.const_data_ptr(), file.read("x").const_data_ptr());
  }
  EXPECT_TRUE(at::equal(first, values));
}

TEST(Safetensors, RoundTripsEveryDtypeInAnyOrder) {
  const TempDir dir;
  NamedTensors tensors;
  for (const auto dtype :
       {at::kBool, at::kByte, at::kChar, at::kShort, at::kUInt16, at::kInt, at::kUInt32, at::kLong,
        at::kUInt64, at::kHalf, at::kBFloat16, at::kFloat, at::kDouble, at::kComplexFloat,
        at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kFloat8_e4m3fnuz, at::kFloat8_e5m2fnuz,
        at::kFloat8_e8m0fnu}) {
    const int64_t bytes = 3 * static_cast<int64_t>(c10::elementSize(dtype));
    at::Tensor raw = at::arange(bytes, at::kByte);
    if (dtype == at::kBool) raw = raw.remainder(2).to(at::kByte);
    tensors.emplace_back(fmt::format("t.{}", c10::toString(dtype)), raw.view(dtype));
  }
  tensors.emplace_back("scalar", at::scalar_tensor(2.5, at::kFloat));
  tensors.emplace_back("empty", at::empty({0, 7}, at::kBFloat16));
  tensors.emplace_back("a \"quoted\" näme", at::ones({1}, at::kByte));
  {
    SafetensorsWriter writer(dir / "all.safetensors", list_of(tensors),
                             {{"format", "pt"}, {"k", "v"}});
    for (auto item = tensors.rbegin(); item != tensors.rend(); ++item) {
      writer.write(item->first, item->second);
      EXPECT_FALSE(fs::exists(dir / "all.safetensors"));
    }
    writer.commit();
  }
  const SafetensorsFile file(dir / "all.safetensors");
  EXPECT_EQ(file.metadata().at("k"), "v");
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = file.read(name);
    EXPECT_TRUE(same_bits(read, tensor)) << name;
    // The writer orders by width, so nothing needs a copy.
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read.const_data_ptr()) % read.element_size(), 0u) << name;
  }
}

TEST(Safetensors, CopiesWhatTheFileMisaligns) {
  const TempDir dir;
  std::string data("\x07", 1);
  const float value = 1.5f;
  data.append(reinterpret_cast<const char*>(&value), sizeof(value));
  // 117 bytes of header and 8 of length put the float at an odd address.
  std::string header =
      R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  header.append((8 - header.size() % 8) % 8, ' ');
  write_raw(dir / "odd.safetensors", header, data);
  const at::Tensor read = SafetensorsFile(dir / "odd.safetensors").read("f");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(read.const_data_ptr()) % 4, 0u);
  EXPECT_EQ(read.item<float>(), 1.5f);
}

TEST(Safetensors, WritesNonContiguousTensorsByValue) {
  const TempDir dir;
  const at::Tensor transposed = at::arange(6, at::kFloat).view({2, 3}).t();
  write_safetensors(dir / "t.safetensors", {{"x", transposed}});
  EXPECT_TRUE(at::equal(SafetensorsFile(dir / "t.safetensors").read("x"), transposed));
}

// The library itself is asked by interop/test_safetensors.py.
TEST(Safetensors, PackedTypesAreListedAndNotLoaded) {
  const TempDir dir;
  const std::string header = R"({"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]},)"
                             R"("b":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[3,6]},)"
                             R"("c":{"dtype":"F6_E3M2","shape":[0,5],"data_offsets":[6,6]},)"
                             R"("d":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[6,8]}})";
  write_raw(dir / "packed.safetensors", header, "abcdefgh");
  const SafetensorsFile file(dir / "packed.safetensors");
  EXPECT_EQ(describe(file.tensors().at("a")), "F4 [3, 2]");
  EXPECT_EQ(byte_size(file.tensors().at("a")), 3u);
  EXPECT_EQ(byte_size(file.tensors().at("b")), 3u);
  EXPECT_EQ(byte_size(file.tensors().at("c")), 0u);
  std::string bytes(3, ' ');
  EXPECT_EQ(file.tensors().at("a").rows(), 3);  // a byte each
  EXPECT_EQ(file.tensors().at("c").rows(), 0);
  file.read_rows("b", {0, 3}, reinterpret_cast<std::byte*>(bytes.data()));
  EXPECT_EQ(bytes, "def");
  file.read_rows("b", {1, 2}, reinterpret_cast<std::byte*>(bytes.data()));
  EXPECT_EQ(bytes, "eff");
  for (const char* name : {"a", "b", "c"}) {
    EXPECT_REFUSED(file.read(name), "packed.safetensors", std::string("tensor ") + name, "F",
                   "not loaded");
  }
  EXPECT_EQ(file.read("d").scalar_type(), at::kFloat8_e8m0fnu);
}

TEST(SafetensorsBadInput, PackedElementsFillWholeBytes) {
  const auto refusal = [](const char* dtype, const char* shape, int bytes) {
    return open_error(fmt::format(R"({{"a":{{"dtype":"{}","shape":{},"data_offsets":[0,{}]}}}})",
                                  dtype, shape, bytes),
                      std::string(static_cast<size_t>(bytes), 'x'));
  };
  expect_mentions(refusal("F4", "[3]", 2), {"tensor a", "F4 [3]", "4 bits", "whole bytes"});
  expect_mentions(refusal("F4", "[]", 1), {"F4 []", "whole bytes"});
  expect_mentions(refusal("F6_E2M3", "[2, 3]", 5), {"F6_E2M3 [2, 3]", "6 bits"});
  expect_mentions(refusal("F6_E3M2", "[8]", 7), {"needs 6 bytes", "span 7"});
  expect_mentions(refusal("F4", "[4611686018427387904, 2]", 0), {"larger than any file"});
}

TEST(SafetensorsBadInput, MissingShortOrForeignFiles) {
  const TempDir dir;
  EXPECT_REFUSED(SafetensorsFile file(dir / "none.safetensors"), "none.safetensors",
                 "No such file");
  write_text(dir / "short.safetensors", "abc");
  EXPECT_REFUSED(SafetensorsFile file(dir / "short.safetensors"), "short.safetensors", "3 bytes",
                 "truncated");
  write_text(dir / "lfs.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  EXPECT_REFUSED(SafetensorsFile file(dir / "lfs.safetensors"), "Git LFS pointer", "git lfs pull");
  expect_mentions(open_error("{}", "", 1ull << 62), {"4611686018427387904", "100000000"});
  expect_mentions(open_error("{}", "", 1000), {"1000 bytes", "only 10", "truncated"});
}

TEST(SafetensorsBadInput, TruncatedData) {
  const TempDir dir;
  std::string text = read_text(kUntied / "model.safetensors");
  text.resize(text.size() - 100);
  write_text(dir / "cut.safetensors", text);
  EXPECT_REFUSED(SafetensorsFile file(dir / "cut.safetensors"), "cut.safetensors", "tensor ",
                 "truncated");
}

TEST(SafetensorsBadInput, HeaderIsNotWhatItShouldBe) {
  expect_mentions(open_error("{\"a\":", ""), {"not valid JSON", "header"});
  expect_mentions(open_error("[1]", ""), {"not a JSON object"});
  expect_mentions(open_error("[[[[[[1]]]]]]", ""), {"nested deeper than 4"});
  expect_mentions(open_error(R"({"__metadata__":{"a":1}})", ""), {"__metadata__"});
  expect_mentions(open_error(R"({"a":3})", ""), {"tensor a", "not an object"});
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_mentions(open_error("{" + a + "," + a + "}", "x"), {"a appears twice"});
  expect_mentions(open_error(R"({"a":{"dtype":"F5","shape":[2],"data_offsets":[0,1]}})", "x"),
                  {"tensor a", "dtype F5 is not supported"});
  expect_mentions(open_error(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "x"),
                  {"tensor a", "shape [-1]"});
  expect_mentions(open_error(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", "x"),
                  {"tensor a", "shape [1.5]"});
  expect_mentions(open_error(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "x"),
                  {"tensor a", "data_offsets"});
  expect_mentions(open_error(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", "x"),
                  {"tensor a", "byte 1", "at 0"});
}

TEST(SafetensorsBadInput, HeaderLiesAboutSizes) {
  expect_mentions(open_error(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})",
                             std::string(20, 'x')),
                  {"tensor a", "F32 [2, 3]", "24 bytes", "20"});
  expect_mentions(open_error(R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", "x"),
                  {"tensor a", "byte 9", "1 bytes"});
  // 2^32 * 2^32 elements wrap to 0 bytes in 64 bits.
  expect_mentions(
      open_error(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
                 ""),
      {"tensor a", "larger than any file"});
  expect_mentions(
      open_error(R"({"a":{"dtype":"U8","shape":[0,9223372036854775807,9],"data_offsets":[0,0]}})",
                 ""),
      {"tensor a", "larger than any file"});
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  expect_mentions(
      open_error("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", "1234567"),
      {"tensor b", "byte 3", "ends at 4", "overlap"});
  expect_mentions(
      open_error("{" + a + R"(,"b":{"dtype":"U8","shape":[3],"data_offsets":[5,8]}})", "12345678"),
      {"tensor b", "byte 5", "ends at 4", "hole"});
  expect_mentions(open_error("{" + a + "}", "123456"), {"byte 4", "holds 6"});
}

TEST(SafetensorsBadInput, UnknownTensor) {
  const SafetensorsFile file(kUntied / "model.safetensors");
  EXPECT_REFUSED(file.read("nope"), "model.safetensors", "no tensor nope");
}

TEST(SafetensorsWriter, NothingRemainsWithoutCommit) {
  const TempDir dir;
  {
    SafetensorsWriter writer(dir / "x.safetensors", {{"x", {at::kFloat, {2}}}});
    writer.write("x", at::ones({2}));
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(SafetensorsWriter, WhatDiffersFromTheListIsOurBug) {
  const TempDir dir;
  SafetensorsWriter writer(dir / "x.safetensors",
                           {{"x", {at::kFloat, {2}}}, {"y", {at::kFloat, {1}}}});
  EXPECT_THROW(writer.write("z", at::ones({2})), c10::Error);
  EXPECT_THROW(writer.write("x", at::ones({3})), c10::Error);
  EXPECT_THROW(writer.write("x", at::ones({2}, at::kHalf)), c10::Error);
  writer.write("x", at::ones({2}));
  EXPECT_THROW(writer.write("x", at::ones({2})), c10::Error);
  EXPECT_THROW(writer.commit(), c10::Error);
}

// RLIMIT_FSIZE makes write(2) fail in the middle of the data, as a full disk does.
TEST(SafetensorsWriter, AFullDiskLeavesNothing) {
  const TempDir dir;
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{64 * 1024, old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = error_of<MachineError>([&] {
    write_safetensors(dir / "big.safetensors", {{"x", at::ones({1 << 20})}});
  });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  expect_mentions(message, {"big.safetensors", "cannot write"});
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

}  // namespace
}  // namespace trestle
