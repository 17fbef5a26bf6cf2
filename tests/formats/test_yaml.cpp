#include <gtest/gtest.h>

#include <cmath>

#include "errors.h"
#include "formats/yaml.h"

namespace trestle {
namespace {

TEST(Yaml, ScalarsAndStructures) {
  const Json value = parse_yaml(
      "a: 1\nb: -2.5\nc: 1.0e-05\nd: 1e-05\ne: null\nf: ~\ng:\nh: true\ni: 'true'\nj: \"1\"\n"
      "k: some words\nl: [1, [2, x]]\nm: {n: {}}\no:\n- 1\n- p: q\n0: zero\nr: inf\ns: 5.12.1\n",
      "test");
  EXPECT_EQ(value, Json::parse(R"({"a": 1, "b": -2.5, "c": 1e-05, "d": 1e-05, "e": null, "f": null,
      "g": null, "h": true, "i": "true", "j": "1", "k": "some words", "l": [1, [2, "x"]],
      "m": {"n": {}}, "o": [1, {"p": "q"}], "0": "zero", "r": "inf", "s": "5.12.1"})"));
  EXPECT_TRUE(std::isinf(parse_yaml("x: .inf", "test")["x"].get<double>()));
  EXPECT_EQ(parse_yaml("x: !!set\n  a.b: null\n  c: null\n", "test"),
            Json::parse(R"({"x": {"a.b": null, "c": null}})"));
  EXPECT_EQ(parse_yaml("a: &x [1, 2]\nb: *x\n", "test"),
            Json::parse(R"({"a": [1, 2], "b": [1, 2]})"));
}

TEST(Yaml, HostileInputIsRefused) {
  EXPECT_REFUSED(parse_yaml(std::string(100'000, '['), "test"), "nested deeper");
  EXPECT_REFUSED(parse_yaml("a: [unclosed", "test"), "not valid YAML");
  std::string blocks, dashes;
  for (int i = 0; i < 20'000; ++i) dashes += "- ";
  EXPECT_REFUSED(parse_yaml(dashes + "x", "test"), "nested deeper");
  for (int i = 0; i < 3000; ++i) blocks += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_REFUSED(parse_yaml(blocks, "test"), "nested deeper");
  // Each line ten times the line before: 10^9 values.
  std::string laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    laughs += fmt::format(
        "a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i, i - 1);
  }
  EXPECT_REFUSED(parse_yaml(laughs, "test"), "YAML values");
  EXPECT_REFUSED(parse_yaml("a: &x [*x]\n", "test"), "a value that is not finished");
  EXPECT_REFUSED(parse_yaml("a: !mine 7\n", "test"), "7 has the tag !mine");
  EXPECT_EQ(parse_yaml("a: !!str 7\n", "test")["a"], "7");
}

TEST(Yaml, OtherEncodingsAreRefused) {
  // What JSON cannot say would surface only where a value is printed or written.
  for (const std::string text : {"a: \xff", "a: \xc0\x80", "a: \xed\xa0\x80"}) {
    EXPECT_REFUSED(parse_yaml(text, "test"), "UTF-8");
  }
}

TEST(Yaml, WritesWhatItReads) {
  const Json value = Json::parse(
      R"({"a": 1, "b": 1e-05, "c": 1.5e300, "d": "null", "e": "x: y # z", "f": "", "on": {"g": []},
          "h": {}, "1": null, "i": [1, [2, [3]], {"j": true, "k": [4]}], "l": "ü\n\"q\""})");
  EXPECT_EQ(parse_yaml(dump_yaml(value), "test"), value);
  EXPECT_NE(dump_yaml(value).find("1.0e-05"), std::string::npos);
}

}  // namespace
}  // namespace trestle
