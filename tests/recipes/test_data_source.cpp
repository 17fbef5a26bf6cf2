// dataset.blend and validation.sets: the forms that they may be written in, and what is refused.
#include <gtest/gtest.h>

#include "base/fields.h"
#include "errors.h"
#include "recipes/config.h"
#include "recipes/data_source.h"

namespace trestle {
namespace {

std::vector<BlendSource> blend(std::string_view text) {
  std::vector<BlendSource> value;
  parse_value("dataset.blend", text, value);
  return value;
}

std::vector<ValidationSet> sets(std::string_view text) {
  std::vector<ValidationSet> value;
  parse_value("validation.sets", text, value);
  return value;
}

TEST(BlendKey, FormsOfOneBlend) {
  const std::string usual = "[{path: a.jsonl, weight: 0.7}, {path: b, weight: 0.3}]";
  for (const char* form :
       {"[{path: a.jsonl, weight: 0.7}, {path: b, weight: 0.3}]",
        "[{path:a.jsonl,weight:0.7},{path:b,weight:0.3}]", "[0.7, a.jsonl, 0.3, b]",
        R"(["0.7", "a.jsonl", "0.3", "b"])", "[[a.jsonl, b], [0.7, 0.3]]"}) {
    EXPECT_EQ(format_value(blend(form)), usual) << form;
  }
  for (const char* form : {"[a.jsonl, b]", "[[a.jsonl, b], null]"}) {
    EXPECT_EQ(format_value(blend(form)), "[{path: a.jsonl}, {path: b}]") << form;
  }
  EXPECT_TRUE(blend("[]").empty());
  EXPECT_EQ(format_value(blend("[]")), "[]");
  const auto whole =
      blend("[{path: org/set, weight: 2, maker_name: parquet, split: '', subset: s}]");
  ASSERT_EQ(whole.size(), 1u);
  EXPECT_EQ(whole[0].data.maker_name, "parquet");
  EXPECT_EQ(whole[0].data.split, "");
  EXPECT_EQ(whole[0].data.subset, "s");
}

TEST(BlendKey, WhatIsNoBlendIsRefused) {
  const auto refused = [](std::string_view text, const std::string& part) {
    testing::expect_mentions(testing::error_of([&] { blend(text); }), {"dataset.blend", part});
  };
  refused("a.jsonl", "is no list");
  refused("{path: a}", "is no list");
  refused("[{path: a, wieght: 1}]", "unknown entry wieght: 1; did you mean weight?");
  refused("[{path: a, file: b}]",
          "unknown entry file: b; there are path, weight, maker_name, split, subset");
  refused("[{weight: 1}]", "{weight: 1} has no path; write [{path: PATH, weight: 0.7}");
  refused("[{path: '', weight: 1}]", "{path: , weight: 1} has no path");
  refused("[0.7, a, 0.3, '']", "path 2 of [0.7, a, 0.3, ] is empty");
  refused("[[a, ''], [1, 2]]", "path 2 of 2 is empty");
  refused("[{path: a.jsonl, maker_name: jsnol}]",
          "maker_name: jsnol of a.jsonl is not known; did you mean jsonl? there are ");
  refused("[{path: a.jsonl, maker_name: csv}]",
          "maker_name: csv of a.jsonl is not known; there are jsonl, ");
  refused("[{path: a, weight: 1}, {path: b}]", "b has no weight");
  refused("[{path: a, weight: 0}]", "must be above 0");
  refused("[{path: a, weight: -1}]", "must be above 0");
  refused("[{path: a, weight: nan}]", "weight");
  refused("[{path: a, weight: much}]", "weight");
  refused("[{path: a, path: b}]", "path stands twice in one entry, as a and b");
  refused("[{path: [a, b]}]", "where a text is expected");
  refused("[{path: a}, b]", "several kinds");
  refused("[0.7, a, 0.3]", "where a path is expected");
  refused("[[a, b], [1]]", "2 paths and 1 weights");
  refused("[{path: !tag a}]", "where a text is expected");
  refused("[{path: a", "not valid YAML");
  std::string many = "[";
  for (int i = 0; i < 300; ++i) many += "a,";
  refused(many + "a]", "at most 256");
}

TEST(BlendKey, AConfigKeepsItAsItIs) {
  TrainConfig config;
  apply_override(config,
                 "dataset.blend=[{path: 'a: [b].jsonl', weight: 0.25}, {path: \"null\", weight: 3, "
                 "split: dev}]");
  apply_override(config, "validation.sets=[{name: n, path: 'é, x', maker_name: jsonl}]");
  ASSERT_EQ(config.dataset.blend.size(), 2u);
  EXPECT_EQ(config.dataset.blend[0].data.path, "a: [b].jsonl");
  EXPECT_EQ(config.dataset.blend[1].data.path, "null");
  TrainConfig again;
  apply_yaml(again, to_yaml(config), "yaml");
  EXPECT_EQ(format_value(again.dataset.blend), format_value(config.dataset.blend));
  EXPECT_EQ(format_value(again.validation.sets), format_value(config.validation.sets));
  EXPECT_EQ(to_yaml(again), to_yaml(config));
}

TEST(BlendKey, AFileMayHaveItInBlocks) {
  TrainConfig config;
  apply_yaml(config,
             "dataset:\n  blend:\n    - path: a.jsonl\n      weight: 0.7\n      maker_name: jsonl\n"
             "    - {path: b, weight: 0.3}\nvalidation:\n  sets:\n    - name: x\n      path: c\n",
             "yaml");
  EXPECT_EQ(format_value(config.dataset.blend),
            "[{path: a.jsonl, weight: 0.7, maker_name: jsonl}, {path: b, weight: 0.3}]");
  EXPECT_EQ(format_value(config.validation.sets), "[{name: x, path: c}]");
  apply_yaml(config, "dataset:\n  blend: [[a, b], null]\n", "yaml");
  EXPECT_EQ(format_value(config.dataset.blend), "[{path: a}, {path: b}]");
  EXPECT_REFUSED(apply_yaml(config, "dataset:\n  blend: [{path: {a: b}}]\n", "yaml"),
                 "not a list of plain values");
}

TEST(SetsKey, WhatIsNoSetIsRefused) {
  const auto refused = [](std::string_view text, const std::string& part) {
    testing::expect_mentions(testing::error_of([&] { sets(text); }), {"validation.sets", part});
  };
  EXPECT_EQ(format_value(sets("[{name:a,path:b}]")), "[{name: a, path: b}]");
  refused("[{path: a}]", "'' is no name for the set a");
  refused("[{name: 'a/b', path: a}]", "'a/b' is no name");
  refused("[{name: a, path: b}, {name: a, path: c}]", "two sets are named a, b and c");
  refused("[{name: a}]", "{name: a} has no path; write [{name: NAME, path: PATH}");
  refused("[{name: a, path: b, weight: 1}]",
          "unknown entry weight: 1; there are name, path, maker_name, split, subset");
  refused("[{name: a, path: b, maker_name: parqet}]", "did you mean parquet?");
  refused("a", "validation.sets=a: is no list; write [{name: NAME, path: PATH}");
  refused("[a, b]", "a is no entry");
}

TEST(BlendKey, WhatDoesNotGoTogetherIsRefused) {
  TrainConfig config;
  config.checkpoint.pretrained_checkpoint = "m";
  config.checkpoint.save = "s";
  config.dataset.blend = blend("[a, b]");
  EXPECT_NO_THROW(config.validate());
  config.dataset.path_or_dataset = "c";
  EXPECT_REFUSED(config.validate(),
                 "dataset.blend=[{path: a}, {path: b}] and dataset.path_or_dataset=c");
  config.dataset.path_or_dataset = "";
  config.train.num_epochs = 2;
  EXPECT_REFUSED(config.validate(), "train.num_epochs=2 has no meaning with dataset.blend");
  config.train.num_epochs.reset();
  config.validation.sets = sets("[{name: a, path: b}, {name: c-d, path: e}]");
  config.validation.path_or_dataset = "c";
  EXPECT_REFUSED(config.validate(),
                 "validation.sets=[{name: a, path: b}, {name: c-d, path: e}] and "
                 "validation.path_or_dataset=c");
  config.validation.path_or_dataset = "";
  const auto refused = [&](const std::string& metric, const std::string& part) {
    config.validation.best_metric = metric;
    testing::expect_mentions(testing::error_of([&] { config.validate(); }),
                             {"validation.best_metric=" + metric, part});
  };
  refused("foo-a", ": foo is no metric; there are exact_match, ");
  refused("field_f2-a", ": field_f2 is no metric; did you mean field_f1-a?");
  refused("-a", "'' is no metric");
  refused("valid_loss-c-e", "is of no set; write valid_loss-c-d, for one of validation.sets");
  refused("field_f1-a", "scores answers but validation.answers=0");
  config.validation.best_metric = "valid_loss";
  EXPECT_REFUSED(config.validate(), "write valid_loss-a");
  config.validation.best_metric = "valid_loss-b";
  EXPECT_REFUSED(config.validate(), "write valid_loss-a");
  config.validation.best_metric = "valid_loss-c-d";
  EXPECT_NO_THROW(config.validate());
  config.validation.best_metric = "field_f2-a";
  EXPECT_REFUSED(config.validate(), "did you mean field_f1-a?");
  config.validation.best_metric = "field_f1-a";
  EXPECT_REFUSED(config.validate(), "validation.answers=0");
}

}  // namespace
}  // namespace trestle
