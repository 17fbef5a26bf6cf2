// Which files of a data set on the Hub are of which subset and split: the shapes that repositories
// have, and READMEs that nobody vouches for.
#include <gtest/gtest.h>

#include "data/datasets.h"
#include "data/glob.h"
#include "data/hub_dataset.h"
#include "data/hub_layout.h"
#include "errors.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
using Files = HubSubset::Files;
using Names = std::set<std::string>;

// As fsspec's glob_translate has them.
TEST(Glob, IsFsspecs) {
  for (const auto& [pattern, path] : std::vector<std::pair<std::string, std::string>>{
           {"data/train-*", "data/train-00000-of-00001.parquet"},
           {"data/train-*", "data/train-"},
           {"**/*.parquet", "a.parquet"},
           {"**/*.parquet", "a/b/c.parquet"},
           {"**", "a/b.parquet"},
           {"a/**", "a/b/c"},
           {"a/**/c", "a/c"},
           {"a/**/c", "a/b/b/c"},
           {"a?c", "abc"},
           {"[a-c]x", "bx"},
           {"[!a-c]x", "dx"},
           {"[]]x", "]x"},
           {"[x", "[x"},
           {"a.b", "a.b"},
           {"*-of-*", "0-of-0-of-1"}}) {
    EXPECT_TRUE(matches_glob(pattern, path)) << pattern << " " << path;
  }
  for (const auto& [pattern, path] :
       std::vector<std::pair<std::string, std::string>>{{"data/train-*", "data/train-0/a.parquet"},
                                                        {"*.parquet", "a/b.parquet"},
                                                        {"a?c", "a/c"},
                                                        {"a/**/c", "ac"},
                                                        {"a/**/c", "a/bc"},
                                                        {"[a-c]x", "dx"},
                                                        {"[!a-c]x", "bx"},
                                                        {"a.b", "axb"},
                                                        {"", "a"},
                                                        {"a", ""},
                                                        {"a", "ab"}}) {
    EXPECT_FALSE(matches_glob(pattern, path)) << pattern << " " << path;
  }
  // Not exponential.
  std::string stars;
  for (int i = 0; i < 200; ++i) stars += "*a";
  EXPECT_FALSE(matches_glob(stars + "b", std::string(1000, 'a')));
}

std::string readme(const std::string& yaml) { return "---\n" + yaml + "---\n# A data set\n"; }

// naver-clova-ix/cord-v2: no configs, so the names tell.
TEST(HubLayout, WithoutConfigsTheNamesTellTheSplits) {
  const Names names = {"README.md",
                       "data/train-00000-of-00002-b4aaeceff1d90ecb.parquet",
                       "data/train-00001-of-00002-7dbbe248962764c5.parquet",
                       "data/test-00000-of-00001-9c204eb3f4e11791.parquet",
                       "data/train.jsonl",
                       ".cache/train.parquet",
                       "__pycache__/train.parquet"};
  for (const std::string& text :
       {std::string(), readme("license: mit\n"), std::string("# none\n"), readme("configs:\n"),
        readme(""), readme("configs:\n- config_name: default\n")}) {
    const HubSubset subset = HubLayout(names, text).subset("");
    EXPECT_EQ(subset.of_split("train"),
              (Files{"data/train-00000-of-00002-b4aaeceff1d90ecb.parquet",
                     "data/train-00001-of-00002-7dbbe248962764c5.parquet"}));
    EXPECT_EQ(subset.of_split("validation"), Files{});
    EXPECT_EQ(subset.describe(), "it has those of train, test");
    EXPECT_EQ(subset.of_split("").size(), 3u);
  }
  EXPECT_EQ(HubLayout(names, "").subset("default").of_split("test").size(), 1u);
  expect_mentions(error_of([&] { HubLayout(names, "").subset("few"); }), {"no subsets", "few"});
  expect_mentions(
      error_of([] { HubLayout({"train-test.parquet"}, "").subset("").of_split("train"); }),
      {"train-test.parquet", "'train'", "'test'"});
}

// HuggingFaceM4/the_cauldron: a subset a folder, and no default.
TEST(HubLayout, ConfigsOfTheReadme) {
  const Names names = {"README.md", "ai2d/train-00000-of-00002.parquet",
                       "ai2d/train-00001-of-00002.parquet", "raven/train-00000-of-00001.parquet"};
  const HubLayout layout(names, readme(R"(dataset_info:
- config_name: ai2d
  features:
  - name: images
    sequence: image
  splits:
  - name: train
    num_examples: 2434
configs:
- config_name: ai2d
  data_files:
  - split: train
    path: ai2d/train-*
- config_name: raven
  data_files:
  - split: train
    path: raven/train-*
)"));
  EXPECT_EQ(layout.subset("raven").of_split("train"), Files{"raven/train-00000-of-00001.parquet"});
  EXPECT_EQ(layout.subset("ai2d").of_split("train").size(), 2u);
  EXPECT_EQ(layout.subset("raven").of_split("test"), Files{});
  EXPECT_EQ(layout.subset("raven").describe(), "it has those of train");
  expect_mentions(error_of([&] { layout.subset(""); }), {"ai2d, raven", "dataset.subset"});
  expect_mentions(error_of([&] { layout.subset("raven2"); }), {"no subset raven2", "ai2d, raven"});
}

TEST(HubLayout, WhatConfigsMaySay) {
  const Names names = {"b.parquet",        "a.parquet",         "d/train/0.parquet",
                       "d/test/0.parquet", ".hidden/x.parquet", "t.jsonl"};
  const HubLayout layout(names, readme(R"(configs:
- config_name: one
  data_files: "b.parquet"
- config_name: list
  data_files: [b.parquet, "*.parquet"]
- config_name: folder
  data_dir: ./d/
- config_name: both
  data_dir: d
  data_files:
  - {split: mine, path: [test/*, train/*]}
  - {split: 2024, path: ./**/0.parquet}
- config_name: 7
  default: true
  data_files: .hidden/*
- config_name: lines
  data_files: "*.jsonl"
)"));
  EXPECT_EQ(layout.subset("one").of_split("train"), Files{"b.parquet"});
  // In the order of the patterns, each once.
  EXPECT_EQ(layout.subset("list").of_split("train"), (Files{"b.parquet", "a.parquet"}));
  EXPECT_EQ(layout.subset("folder").of_split("test"), Files{"d/test/0.parquet"});
  const HubSubset both = layout.subset("both");
  EXPECT_EQ(both.of_split("mine"), (Files{"d/test/0.parquet", "d/train/0.parquet"}));
  EXPECT_EQ(both.of_split("2024"), (Files{"d/test/0.parquet", "d/train/0.parquet"}));
  EXPECT_EQ(both.describe(), "it has those of mine, 2024");
  EXPECT_EQ(layout.subset("").of_split("train"), Files{".hidden/x.parquet"});  // the default
  EXPECT_FALSE(layout.subset("lines").has_parquet());
}

TEST(HubLayout, TheHubsOwnConversion) {
  const HubLayout layout = HubLayout::of_conversion(
      {"default/train/0000.parquet", "default/train/0001.parquet",
       "default/train-test/0000.parquet", "default/partial-big/0000.parquet", "README.md",
       "x.parquet", "a/b/c/d.parquet"});
  const HubSubset subset = layout.subset("");
  EXPECT_EQ(subset.of_split("train"),
            (Files{"default/train/0000.parquet", "default/train/0001.parquet"}));
  EXPECT_EQ(subset.of_split("train-test").size(), 1u);
  EXPECT_EQ(subset.of_split("big"), Files{});  // a part is not the split
  EXPECT_EQ(subset.describe(), "it has those of partial-big, train-test, train");
}

TEST(HubLayout, ReadmesThatMeanNothing) {
  for (const auto& [yaml, says] : std::vector<std::pair<std::string, std::string>>{
           {"a: [\n", "README.md: not valid YAML"},
           {"configs: few\n", "configs is no list"},
           {"configs: [few]\n", "no keys"},
           {"configs: [{config_name: [a]}]\n", "config_name is no text"},
           {"configs: [{data_dir: {a: b}}]\n", "data_dir of default is no text"},
           {"configs: [{data_files: {train: a}}]\n", "data_files of default is no text"},
           {"configs: [{data_files: [{split: train}]}]\n", "needs split and path"},
           {"configs: [{data_files: [{split: train, path: a}, b]}]\n", "needs split and path"},
           {"configs: [{data_files: [{split: train, path: [[a]]}]}]\n", "is no text"}}) {
    expect_mentions(error_of([&] { HubLayout({"a.parquet"}, readme(yaml)); }), {says});
  }
  // Far more to compare than a README of sense asks for.
  Names names;
  for (int i = 0; i < 20'000; ++i) names.insert(fmt::format("{:0200}.parquet", i));
  std::string yaml = "configs:\n- data_files:\n";
  for (int i = 0; i < 10'000; ++i) yaml += fmt::format("  - '*a*a*a*a{}'\n", i);
  expect_mentions(error_of([&] { HubLayout(names, readme(yaml)).subset(""); }), {"too many"});
}

TEST(DataByName, IsOfParquetAndNotHere) {
  EXPECT_TRUE(is_on_hub("make_cord_v2_dataset", "naver-clova-ix/cord-v2"));
  EXPECT_TRUE(is_on_hub("parquet", "org/set@v1"));
  EXPECT_TRUE(split_matters("parquet", "org/set"));
  EXPECT_FALSE(is_on_hub("parquet", "data/golden"));
  EXPECT_FALSE(is_on_hub("parquet", "./org/set"));
  EXPECT_FALSE(is_on_hub("parquet", "data/train.parquet"));
  EXPECT_FALSE(is_on_hub("jsonl", "org/set"));
  EXPECT_EQ(hub_name_of_maker("make_medpix_dataset").path, "mmoukouba/MedPix-VQA");
  EXPECT_EQ(hub_name_of_maker("make_raven_dataset").subset, "raven");
  EXPECT_EQ(hub_name_of_maker("jsonl").path, "");
  for (const char* maker : {"jsonl", "webdataset"}) {
    expect_mentions(error_of([&] { make_dataset(maker, {.path = "org/set"}); }),
                    {"org/set", "parquet"});
  }
  expect_mentions(
      error_of([] { make_dataset("parquet", {.path = "data/golden", .subset = "few"}); }),
      {"data/golden", "few", "leave"});
}

TEST(DataByName, SnapshotsAreKnownByTheirCommit) {
  const std::string commit(40, 'a');
  const std::filesystem::path snapshot = "/cache/datasets--o--n/snapshots/" + commit;
  EXPECT_EQ(snapshot_of(snapshot / "data/train.parquet"), snapshot);
  EXPECT_EQ(snapshot_of("/data/snapshots/of/train.parquet"), "");
  EXPECT_EQ(snapshot_of("train.parquet"), "");
}

}  // namespace
}  // namespace trestle
