#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "base/file.h"
#include "errors.h"
#include "pytorch/pickle.h"
#include "pytorch/pickle_writer.h"
#include "pytorch/torch_dist_metadata.h"
#include "pytorch/zip.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
using testing::refusal_of;
using Kind = PickleValue::Kind;
using namespace std::string_literals;

constexpr std::string_view kAllowed[] = {"collections.OrderedDict", "torch.Size",
                                         "_codecs.encode",          "builtins.set",
                                         "__builtin__.set",         "module.Class"};

Pickle load(std::string_view bytes, PickleLimits limits = {}) {
  return Pickle(std::as_bytes(std::span(bytes)), kAllowed, "test.pkl", limits);
}

// The one line of the UserError that reading gives.
std::string refusal(std::string_view bytes, PickleLimits limits = {}) {
  const std::string message = error_of([&] { load(bytes, limits); });
  EXPECT_TRUE(message.starts_with("test.pkl: ")) << message;
  return message;
}

TEST(Pickle, PlainValuesComeBack) {
  const Json value = Json::parse(
      R"({"a": [1, -1, 300, 70000, 5000000000, -5000000000], "b": {"c": null, "d": true, "e": false},
          "f": [0.1, -2.5e300], "g": "Grüße", "h": [], "i": {}})");
  const Pickle pickle = load(PickleWriter().json(value).finish());
  EXPECT_EQ(to_json(pickle.root()), value);
}

// What CPython wrote, by protocol: pickle.dumps({"k": (1, 2.5, b"\xff\x00", "é" * 300, {3}, 2**40,
// [None, True])}).
TEST(Pickle, EveryProtocolOfPython) {
  for (int protocol = 2; protocol <= 5; ++protocol) {
    const MappedFile file(fmt::format("pytorch/pickles/protocol{}.pkl", protocol));
    const Pickle pickle = load(file.text());
    const auto parts = pickle.root().at("k").as_sequence();
    ASSERT_EQ(parts.size(), 7u) << protocol;
    EXPECT_EQ(parts[0]->as_int(), 1);
    EXPECT_EQ(parts[1]->number, 2.5);
    EXPECT_EQ(parts[2]->kind, Kind::kBytes);
    EXPECT_EQ(parts[2]->text, "\xff\0"s);
    EXPECT_EQ(parts[3]->as_string().size(), 600u);
    EXPECT_EQ(parts[4]->kind, Kind::kSet);
    EXPECT_EQ(parts[4]->items[0]->as_int(), 3);
    EXPECT_EQ(parts[5]->as_int(), int64_t{1} << 40);
    EXPECT_EQ(parts[6]->as_sequence()[1]->kind, Kind::kBool);
  }
}

// Element types are names and nothing more; what else torch has is refused.
TEST(Pickle, EveryOneMayNameElementTypes) {
  EXPECT_EQ(load(PickleWriter().global("torch", "bfloat16").finish()).root().text,
            "torch.bfloat16");
  for (const char* other : {"load", "float31", "bfloat16Storage", ""}) {
    expect_mentions(refusal(PickleWriter().global("torch", other).finish()),
                    {fmt::format("names torch.{}", other)});
  }
  expect_mentions(refusal(PickleWriter().global("os", "bfloat16").finish()), {"os.bfloat16"});
}

TEST(Pickle, ObjectsAreDescribedAndNotMade) {
  PickleWriter out;
  out.new_object("module", "Class").empty_dict().mark();
  out.string("sizes").global("torch", "Size").mark().integers(std::vector<int64_t>{2, 3}).tuple();
  out.reduce().set_items().build();
  const Pickle pickle = load(out.finish());
  EXPECT_TRUE(pickle.root().is_object("module.Class"));
  EXPECT_EQ(pickle.root().at("sizes").as_ints(), (std::vector<int64_t>{2, 3}));
  EXPECT_REFUSED(pickle.root().at("absent"), "lacks the entry absent");
}

TEST(Pickle, ForeignCallablesAreRefused) {
  const std::pair<const char*, const char*> kCallables[] = {
      {"os", "system"},        {"posix", "system"},
      {"builtins", "exec"},    {"builtins", "eval"},
      {"__builtin__", "eval"}, {"subprocess", "Popen"},
      {"builtins", "getattr"}, {"torch", "load"},
      {"torch.hub", "load"},   {"importlib", "import_module"}};
  for (const auto& [module, name] : kCallables) {
    const std::string full = fmt::format("{}.{}", module, name);
    // GLOBAL and a call, as protocol 2 has it.
    PickleWriter call;
    call.global(module, name).mark().string("touch /tmp/trestle-was-here").tuple().reduce();
    expect_mentions(refusal(call.finish()), {full});
    // STACK_GLOBAL, protocol 4, from the memo.
    const std::string stacked = "\x80\x04\x8c"s + static_cast<char>(std::strlen(module)) + module +
                                "\x94\x8c"s + static_cast<char>(std::strlen(name)) + name +
                                "\x94h\0h\1\x93."s;
    expect_mentions(refusal(stacked), {full});
    // Only named, never called.
    expect_mentions(refusal(PickleWriter().global(module, name).finish()), {full});
  }
  EXPECT_FALSE(std::filesystem::exists("/tmp/trestle-was-here"));
}

TEST(Pickle, ForeignOperationsAreRefused) {
  expect_mentions(refusal("\x80\x02(S'ls'\nios\nsystem\n."s),
                  {"0x53"});                                            // protocol 0: STRING, INST
  expect_mentions(refusal("\x80\x02\x82\x01."s), {"0x82"});             // EXT1
  expect_mentions(refusal("\x80\x05\x97."s), {"0x97"});                 // NEXT_BUFFER
  expect_mentions(refusal("cos\nsystem\n(S'ls'\ntR."s), {"protocol"});  // no PROTO
  expect_mentions(refusal("\x80\x06N."s), {"protocol 6"});
  expect_mentions(refusal("\x80\x02}}R."s), {"is called"});  // a dict as callable
  expect_mentions(refusal("\x80\x02K\x01}b."s), {"state"});  // BUILD of an int
}

TEST(Pickle, LyingLengthsAreRefused) {
  expect_mentions(refusal("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff."s), {"announced"});
  expect_mentions(refusal("\x80\x02X\xff\xff\xff\x7f."s), {"announced"});
  expect_mentions(refusal("\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."s), {"frame"});
  expect_mentions(refusal("\x80\x02\x8b\xff\xff\xff\xff."s), {"announced"});
  expect_mentions(refusal("\x80\x02Nr\xff\xff\xff\xff."s), {"memo entry 4294967295"});
  expect_mentions(refusal("\x80\x02j\x07\x00\x00\x00."s), {"no memo entry 7"});
  expect_mentions(refusal("\x80\x02X\x02\x00\x00\x00\xc3\x28."s), {"UTF-8"});
  expect_mentions(refusal("\x80\x02."s), {"stack"});
  expect_mentions(refusal("\x80\x02NN."s), {"stack"});
  expect_mentions(refusal("\x80\x02t."s), {"mark"});
  expect_mentions(refusal("\x80\x02}(Nu."s), {"key"});
  expect_mentions(refusal("\x80\x02(\x30."s), {"empty stack"});  // POP must not cross the mark
}

TEST(Pickle, NestingAndMemoryAreBounded) {
  const std::string lists(1'000'000, ']'), appends(999'999, 'a');
  expect_mentions(refusal("\x80\x02" + lists + appends + "."), {"nested deeper than 200"});
  expect_mentions(refusal("\x80\x02" + lists, {.memory = 1 << 20}), {"memory"});
  // Ten lists of ten references each, nested: 10^10 values in 200 bytes.
  std::string laughs = "\x80\x02N";
  for (int level = 0; level < 10; ++level) {
    laughs += "q"s + static_cast<char>(level) + "0](";
    for (int i = 0; i < 10; ++i) laughs += "h"s + static_cast<char>(level);
    laughs += "e";
  }
  const Pickle shared = load(laughs + ".");
  EXPECT_REFUSED(to_json(shared.root()), "too large to be shown");
  const Pickle cycle = load("\x80\x02]q\0h\0a."s);  // a list that holds itself
  EXPECT_REFUSED(to_json(cycle.root()), "nested deeper than");
}

TEST(Zip, WithoutItsEndRecordIsCutShort) {
  const std::string zeros(100, '\0');
  for (const size_t size : {size_t{0}, size_t{21}, size_t{22}, zeros.size()}) {
    const auto bytes = std::as_bytes(std::span(zeros.data(), size));
    EXPECT_REFUSED(ZipReader(bytes, "a.pt"), size < 22 ? "ends too early" : "it is cut short");
  }
}

// Damage at any place is an error or goes unnoticed; it never crashes, and nothing asks for absurd
// memory.
TEST(Pickle, DamagedMetadata) {
  const std::string whole = read_text("fixtures/megatron/import/iter_0000000/.metadata");
  const testing::TempDir directory;
  const auto path = directory / ".metadata";
  const auto write = [&](std::string_view bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  };
  for (size_t size = 0; size < whole.size(); size += 997) {
    write(std::string_view(whole).substr(0, size));
    EXPECT_REFUSED(read_torch_dist_metadata(path), path.string());
  }
  std::mt19937 random(1);
  int refused = 0;
  for (int trial = 0; trial < 400; ++trial) {
    std::string damaged = whole;
    for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    write(damaged);
    refused += refusal_of([&] { read_torch_dist_metadata(path); }).has_value();
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace trestle
