// Overrides, YAML and errors of config structs.
#include <gtest/gtest.h>

#include <map>

#include "base/fields.h"
#include "errors.h"

namespace trestle {
namespace {

using testing::error_of;

constexpr OnResume kSame = OnResume::kSame;

struct Inner {
  double lr = 0.5;
  std::optional<int64_t> warmup;
  double spike = 0;
  static constexpr auto fields() {
    return std::tuple(field("lr", &Inner::lr, kSame, above(0, 1), "rate"),
                      field("warmup", &Inner::warmup, kSame, between(1, 100)),
                      field("spike", &Inner::spike, kSame, or_zero(below(2, 9))));
  }
};

struct Outer {
  Inner optimizer;
  std::string name = "a b";
  std::vector<std::string> modules = {"x", "y"};
  bool on = false;
  std::string mode = "one";
  int64_t bits = 16;
  std::optional<std::string> project;
  static constexpr auto fields() {
    return std::tuple(field("optimizer", &Outer::optimizer), field("name", &Outer::name, kSame),
                      field("modules", &Outer::modules, kSame), field("on", &Outer::on, kSame),
                      field("mode", &Outer::mode, OnResume::kFree, OneOf("one", "two")),
                      field("bits", &Outer::bits, kSame, between(4, 16)),
                      field("project", &Outer::project, kSame));
  }
};

TEST(Fields, OverridesReachNestedMembers) {
  Outer config;
  apply_override(config, "optimizer.lr=1e-4");
  apply_override(config, "optimizer.warmup=10");
  apply_override(config, "modules=[q_proj, v_proj]");
  apply_override(config, "on=true");
  EXPECT_EQ(config.optimizer.lr, 1e-4);
  EXPECT_EQ(config.optimizer.warmup, 10);
  EXPECT_EQ(config.modules, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_TRUE(config.on);
  apply_override(config, "optimizer.warmup=null");
  EXPECT_FALSE(config.optimizer.warmup);
}

TEST(Fields, YamlReadsBackToTheSame) {
  Outer config;
  config.optimizer.lr = 0.1 + 0.2;
  config.optimizer.warmup = 7;
  config.name = "true: [odd] #name";
  for (const std::string name : {"null", "~", "[a, b]", "", "none"}) {
    Outer odd, same;
    odd.name = name;
    apply_yaml(same, to_yaml(odd), "test");
    EXPECT_EQ(same.name, name);
  }
  // Items that YAML would read as something else: an alias, nothing, a tag.
  Outer listed, as_listed;
  listed.modules = {"*", "lm.*", "null", "!x", "#1"};
  apply_yaml(as_listed, to_yaml(listed), "test");
  EXPECT_EQ(as_listed.modules, listed.modules);
  Outer again;
  apply_yaml(again, to_yaml(config), "test");
  EXPECT_EQ(to_yaml(again), to_yaml(config));
  EXPECT_EQ(again.optimizer.lr, config.optimizer.lr);
  EXPECT_EQ(again.name, config.name);
}

// users' pain point 14: recipes that fail.
TEST(Fields, ErrorsNameTheKeyAndTheNearest) {
  Outer config;
  EXPECT_EQ(error_of([&] { apply_override(config, "optimizer.lrr=1"); }),
            "unknown option optimizer.lrr; did you mean optimizer.lr?");
  EXPECT_EQ(error_of([&] { apply_override(config, "lr=1"); }),
            "unknown option lr; did you mean optimizer.lr?");
  EXPECT_EQ(error_of([&] { apply_override(config, "optimizer.lr=fast"); }),
            "optimizer.lr=fast: 'fast' is not a number; must be above 0 and at most 1");
  EXPECT_EQ(error_of([&] { apply_override(config, "on"); }),
            "override 'on' has no '='; write key.sub=value");
}

// Of every kind of key, in a file and on the command line.
TEST(Fields, NullIsTheDefault) {
  Outer recipe;
  recipe.optimizer.lr = 0.25;
  recipe.name = "recipe's";
  recipe.modules = {"z"};
  recipe.on = true;
  recipe.optimizer.warmup = 3;
  const auto changed = [&] {
    Outer config = recipe;
    config.optimizer.lr = 0.125;
    config.optimizer.warmup = 9;
    config.name = "other";
    config.modules = {};
    config.on = false;
    return config;
  };
  Outer config = changed();
  apply_yaml(config, "{optimizer: {lr: null, warmup: ~}, name: null, modules: , on: null}", "test",
             recipe);
  EXPECT_EQ(to_yaml(config), to_yaml(recipe));
  config = changed();
  for (const char* each :
       {"optimizer.lr=null", "optimizer.warmup=null", "name=null", "modules=null", "on=null"}) {
    apply_override(config, each, recipe);
  }
  EXPECT_EQ(to_yaml(config), to_yaml(recipe));
  // The word is something else.
  apply_yaml(config, "name: 'null'", "test", recipe);
  EXPECT_EQ(config.name, "null");
  apply_override(config, "name=\"null\"", recipe);
  EXPECT_EQ(config.name, "null");
}

TEST(Fields, ValuesOutOfRangeAreRefusedWhereTheyAreSet) {
  Outer config;
  for (const auto& [given, why] : std::map<std::string, std::string>{
           {"optimizer.lr=0", "optimizer.lr=0: must be above 0 and at most 1"},
           {"optimizer.lr=1.5", "optimizer.lr=1.5: must be above 0 and at most 1"},
           {"optimizer.lr=nan", "optimizer.lr=nan: must be above 0 and at most 1"},
           {"optimizer.lr=inf", "optimizer.lr=inf: must be above 0 and at most 1"},
           {"optimizer.lr=-inf", "optimizer.lr=-inf: must be above 0 and at most 1"},
           {"optimizer.warmup=0", "optimizer.warmup=0: must be at least 1 and at most 100"},
           {"optimizer.warmup=101", "optimizer.warmup=101: must be at least 1 and at most 100"},
           {"optimizer.spike=1",
            "optimizer.spike=1: must be at least 2 and below 9, or 0 for none"},
           {"optimizer.spike=9",
            "optimizer.spike=9: must be at least 2 and below 9, or 0 for none"},
           {"bits=17", "bits=17: must be at least 4 and at most 16"},
           {"bits=0", "bits=0: must be at least 4 and at most 16"},
           {"mode=three", "mode=three: must be one of one, two"},
           {"mode=onee", "mode=onee: must be one of one, two; did you mean one?"},
           {"mode=", "mode=: must be one of one, two"}}) {
    EXPECT_EQ(error_of([&] { apply_override(config, given); }), why);
    EXPECT_EQ(error_of([&] {
                const size_t equals = given.find('=');
                set_field(config, {given.substr(0, equals), given.substr(equals + 1)});
              }),
              why);
  }
  for (const char* given : {"optimizer.lr=1", "optimizer.warmup=1", "optimizer.warmup=100",
                            "optimizer.spike=0", "optimizer.spike=2", "mode=two"}) {
    Outer allowed;
    apply_override(allowed, given);
    check_values(allowed);
  }
  // What code sets is checked before it is used.
  config = {};
  config.optimizer.warmup = -1;
  EXPECT_EQ(error_of([&] { check_values(config); }),
            "optimizer.warmup=-1: must be at least 1 and at most 100");
}

// What another program reads as another number is none here.
TEST(Fields, NumbersAreDecimal) {
  Outer config;
  for (const auto& [text, why] : std::map<std::string, std::string>{
           {"010", "'010' begins with 0, which some read as octal; leave that 0 out"},
           {"0x10", "'0x10' is not a whole number"},
           {"+8", "'+8' is not a whole number"},
           {"1_0", "'1_0' is not a whole number"},
           {"8.0", "'8.0' is not a whole number"},
           {"", "'' is not a whole number"},
           {"9223372036854775808", "'9223372036854775808' is beyond what a number holds"}}) {
    EXPECT_EQ(error_of([&] { apply_override(config, "bits=" + text); }),
              fmt::format("bits={}: {}; must be at least 4 and at most 16", text, why));
  }
  for (const auto& [text, why] :
       {std::pair{"00.5", "begins with 0"}, std::pair{"0x1p-1", "is not a number"},
        std::pair{"+0.5", "is not a number"}, std::pair{"1e999", "is beyond what a number holds"},
        std::pair{"0.5f", "is not a number"}, std::pair{"0,5", "is not a number"}}) {
    EXPECT_REFUSED(apply_override(config, fmt::format("optimizer.lr={}", text)),
                   fmt::format("optimizer.lr={0}: '{0}' {1}", text, why));
  }
  EXPECT_EQ(to_yaml(config), to_yaml(Outer{}));
  apply_override(config, "optimizer.lr=5e-1");
  apply_override(config, "bits= 8 ");
  EXPECT_EQ(config.bits, 8);
}

TEST(Fields, RangesAreExactAndReadable) {
  EXPECT_EQ(at_least(0).text(), "must be at least 0");
  EXPECT_TRUE(at_least(0).holds(1e308));
  EXPECT_FALSE(at_least(0).holds(std::numeric_limits<double>::infinity()));
  // Not every whole number is a double.
  const Range seeds = between(0, 9007199254740992);
  EXPECT_TRUE(seeds.holds(int64_t{9007199254740992}));
  EXPECT_FALSE(seeds.holds(int64_t{9007199254740993}));
}

TEST(Fields, TextThatIsSetMayBeEmpty) {
  Outer config;
  EXPECT_EQ(config.project, std::nullopt);
  for (const char* given : {"project=", "project=\"\""}) {
    apply_override(config, given);
    EXPECT_EQ(config.project, "");
    Outer again;
    apply_yaml(again, to_yaml(config), "test");
    EXPECT_EQ(again.project, "");
    apply_override(config, "project=null");
    EXPECT_EQ(config.project, std::nullopt);
    apply_yaml(again, to_yaml(config), "test");
    EXPECT_EQ(again.project, std::nullopt);
  }
}

TEST(Fields, AnEmptyGroupIsAGroup) {
  Outer config;
  for (const char* text : {"optimizr: {}", "optimizr:"}) {
    EXPECT_EQ(error_of([&] { apply_yaml(config, text, "test"); }),
              "unknown option optimizr; did you mean optimizer?");
  }
  EXPECT_EQ(error_of([&] { apply_yaml(config, "optimizer: {lr: {}, lrr: {}}", "test"); }),
            "unknown option optimizer.lrr; did you mean optimizer.lr?");
  for (const char* text : {"optimizer: {}", "optimizer:", "{}", ""}) {
    apply_yaml(config, text, "test");
    EXPECT_EQ(to_yaml(config), to_yaml(Outer{}));
  }
  EXPECT_EQ(error_of([&] { apply_yaml(config, "optimizer.lr: 1\noptimizer: {}", "test"); }),
            "test: optimizer and optimizer.lr are both there; keep one");
}

TEST(Fields, AKeyTwiceInAFileIsRefused) {
  Outer config;
  EXPECT_EQ(error_of([&] { apply_yaml(config, "name: a\non: true\nname: b", "test"); }),
            "test: name is there twice; keep one");
}

TEST(Fields, HostileYamlIsRefused) {
  // Nineteen lines that aliases make half a million values, with leaves and without.
  for (const std::string leaf : {"1", "{}"}) {
    std::string text = "a0: &a0 {x: " + leaf + "}\n";
    for (int i = 1; i < 19; ++i) {
      text += fmt::format("a{}: &a{} {{x: *a{}, y: *a{}}}\n", i, i, i - 1, i - 1);
    }
    Outer config;
    EXPECT_REFUSED(apply_yaml(config, text, "test"), "values");
    EXPECT_REFUSED(flatten_yaml(load_yaml(text, "test"), "test"), "over 16384");
  }
  Outer config;
  EXPECT_REFUSED(apply_yaml(config, "? [a, b]\n: 1\n", "test"), "a key");
}

}  // namespace
}  // namespace trestle
