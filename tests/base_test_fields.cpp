// Overrides, YAML and errors of config structs.
#include <gtest/gtest.h>

#include <map>

#include "base/fields.h"
#include "errors.h"

namespace trestle {
namespace {

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
  static constexpr auto fields() {
    return std::tuple(field("optimizer", &Outer::optimizer), field("name", &Outer::name, kSame),
                      field("modules", &Outer::modules, kSame), field("on", &Outer::on, kSame),
                      field("mode", &Outer::mode, OnResume::kFree, OneOf("one", "two")));
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
            "optimizer.lr=fast: 'fast' is not a number");
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
           {"mode=three", "mode=three: must be one of one, two"},
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
    EXPECT_NE(error_of([&] { apply_yaml(config, text, "test"); }).find("values"),
              std::string::npos);
    EXPECT_NE(error_of([&] { flatten_yaml(load_yaml(text, "test"), "test"); }).find("over 16384"),
              std::string::npos);
  }
  Outer config;
  EXPECT_NE(error_of([&] { apply_yaml(config, "? [a, b]\n: 1\n", "test"); }).find("a key"),
            std::string::npos);
}

}  // namespace
}  // namespace trestle
