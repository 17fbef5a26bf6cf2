// Overrides, YAML and errors of config structs.
#include <gtest/gtest.h>

#include "base/fields.h"
#include "errors.h"

namespace trestle {
namespace {

struct Inner {
  double lr = 0.5;
  std::optional<int64_t> warmup;
  static constexpr auto fields() {
    return std::tuple(field("lr", &Inner::lr, "rate"), field("warmup", &Inner::warmup));
  }
};

struct Outer {
  Inner optimizer;
  std::string name = "a b";
  std::vector<std::string> modules = {"x", "y"};
  bool on = false;
  static constexpr auto fields() {
    return std::tuple(field("optimizer", &Outer::optimizer), field("name", &Outer::name),
                      field("modules", &Outer::modules), field("on", &Outer::on));
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
