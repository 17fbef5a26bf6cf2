// Names of the Hub, the choice of files, and blobs that come piece by piece. The network is in
// tests/cli/test_hub.py.
#include <gtest/gtest.h>

#include "base/file.h"
#include "errors.h"
#include "hub/cache.h"
#include "hub/client.h"
#include "hub/files.h"
#include "hub/hub.h"
#include "temp_dir.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using testing::TempDir;
using Names = std::set<std::string>;

TEST(HubName, IsOrgNameAndRevision) {
  const auto plain = parse_hub_name("mistralai/Ministral-3-3B-Instruct-2512");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->repository, "mistralai/Ministral-3-3B-Instruct-2512");
  EXPECT_EQ(plain->revision, "main");
  EXPECT_EQ(parse_hub_name("a/b.c_d@refs/pr/4")->revision, "refs/pr/4");
  EXPECT_EQ(parse_hub_name("a/b@v1.0")->repository, "a/b");
}

TEST(HubName, PathsAreNone) {
  for (const char* path : {"",        "a",    "/a/b",  "./a/b", "../b",  "a/..",   "a/.b",
                           ".a/b",    "a/b/", "a/b/c", "a//b",  "a b/c", "a/b--c", "a/b..c",
                           "a/b.git", "a/-b", "a/b-",  "~/b",   "C:/b",  "a/b\n",  "a/\xc3\xa9"}) {
    EXPECT_FALSE(parse_hub_name(path)) << path;
  }
  const std::string longest(96, 'a');
  EXPECT_TRUE(parse_hub_name(longest + "/" + longest));
  EXPECT_FALSE(parse_hub_name(longest + "a/b"));
}

TEST(HubName, RevisionsStayBelowRefs) {
  for (const std::string bad :
       {"", "..", "../x", "x/../y", "/x", "x/", "x//y", ".x", "x/.y", "a b", "a\\b", "-x"}) {
    EXPECT_REFUSED(parse_hub_name("a/b@" + bad), "a/b@", "commit");
  }
  EXPECT_THROW(parse_hub_name("a/b@main\n"), UserError);  // not one line before main makes it one
}

TEST(HubName, FilesStayBelowTheirFolder) {
  for (const std::string& good :
       {std::string("config.json"), std::string("data/train-0.parquet"),
        std::string(".gitattributes"), std::string("a b/\xc3\xa9..x"), std::string(255, 'a')}) {
    EXPECT_TRUE(is_hub_file(good)) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"), std::string(".."),
        std::string("a/../b"), std::string("./a"), std::string("a/."), std::string("a\n"),
        std::string("a\0b", 3), std::string("a\x7f"), std::string(256, 'a'),
        "a/" + std::string(256, 'a')}) {
    EXPECT_FALSE(is_hub_file(bad)) << bad;
  }
  std::string deep = "a";
  while (deep.size() <= 1024) deep += "/a";
  EXPECT_FALSE(is_hub_file(deep));
}

TEST(HubName, Commits) {
  EXPECT_TRUE(is_commit_hash("0123456789abcdef0123456789abcdef01234567"));
  EXPECT_FALSE(is_commit_hash("0123456789abcdef0123456789abcdef0123456"));
  EXPECT_FALSE(is_commit_hash("0123456789ABCDEF0123456789abcdef01234567"));
}

// The official repositories' listings have both forms of the weights.
const Names kOfficial = {".gitattributes",
                         "README.md",
                         "SYSTEM_PROMPT.txt",
                         "chat_template.jinja",
                         "config.json",
                         "consolidated.safetensors",
                         "generation_config.json",
                         "model-00001-of-00002.safetensors",
                         "model-00002-of-00002.safetensors",
                         "model.safetensors.index.json",
                         "params.json",
                         "processor_config.json",
                         "tekken.json",
                         "tokenizer.json",
                         "tokenizer_config.json"};
const Names kSmall = {"SYSTEM_PROMPT.txt", "chat_template.jinja",    "config.json",
                      "params.json",       "generation_config.json", "processor_config.json",
                      "tekken.json",       "tokenizer.json",         "tokenizer_config.json"};

Names with(Names names, const Names& more) {
  names.insert(more.begin(), more.end());
  return names;
}

TEST(HubPlan, TakesOneFormOfTheWeights) {
  const HubPlan model = plan_files(kOfficial, HubFiles::kModel);
  EXPECT_EQ(model.files, with(kSmall, {"model.safetensors.index.json"}));
  EXPECT_EQ(model.index, "model.safetensors.index.json");
  const HubPlan consolidated = plan_files(kOfficial, HubFiles::kConsolidated);
  EXPECT_EQ(consolidated.files, with(kSmall, {"consolidated.safetensors"}));
  EXPECT_EQ(consolidated.index, "");
  EXPECT_EQ(plan_files(kOfficial, HubFiles::kAssets).files, kSmall);
  // As the reader of the directory does.
  const HubPlan single = plan_files(with(kOfficial, {"model.safetensors"}), HubFiles::kModel);
  EXPECT_EQ(single.files, with(kSmall, {"model.safetensors"}));
  EXPECT_EQ(single.index, "");
}

TEST(HubPlan, ConsolidatedOnly) {
  const Names names = {"params.json", "tekken.json", "consolidated-00001-of-00002.safetensors",
                       "consolidated-00002-of-00002.safetensors",
                       "consolidated.safetensors.index.json"};
  EXPECT_EQ(plan_files(names, HubFiles::kModel).files, names);
}

TEST(HubPlan, Adapters) {
  const Names adapter = {"adapter_config.json", "adapter_model.safetensors"};
  EXPECT_EQ(plan_files(with(adapter, {"README.md", "adapter_model.bin", "optimizer.pt"}),
                       HubFiles::kModel)
                .files,
            adapter);
}

TEST(HubPlan, RefusesWhatHoldsNothing) {
  for (const Names& names :
       {Names{}, Names{"config.json"}, Names{"model.safetensors"},
        Names{"config.json", "pytorch_model.bin", "model-Q8_0.gguf", "sub/model.safetensors"},
        Names{"adapter_config.json", "adapter_model.bin"}, Names{"consolidated.safetensors"},
        Names{"params.json", "consolidated.00.pth", "consolidated/../../x.safetensors",
              "consolidated\n.safetensors"}}) {
    EXPECT_REFUSED(plan_files(names, HubFiles::kModel), "safetensors");
  }
  EXPECT_REFUSED(plan_files({"model.safetensors"}, HubFiles::kAssets),
                 "no config.json and no tokenizer");
}

TEST(HubPlan, ShardsAreSafetensorsBesideTheIndex) {
  const TempDir scratch;
  const auto shards = [&](std::string_view text) {
    write_text(scratch / "index.json", text);
    return shard_files(scratch / "index.json");
  };
  EXPECT_EQ(shards(R"({"weight_map": {"a": "x.safetensors", "b": "y.safetensors",
                       "c": "x.safetensors"}})"),
            (Names{"x.safetensors", "y.safetensors"}));
  for (const char* bad :
       {R"({"weight_map": {"a": "../x.safetensors"}})", R"({"weight_map": {}})",
        R"({"weight_map": {"a": "/x.safetensors"}})", "[]", R"({"weight_map": {"a": "x.bin"}})"}) {
    EXPECT_REFUSED(shards(bad), "index.json");
  }
}

// `printf 'hello\n' | git hash-object --stdin`, and its sha256sum.
constexpr const char* kHello = "hello\n";
constexpr const char* kGit = "ce013625030ba8dba906f756967f9e9ca394464a";
constexpr const char* kSha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

class Blob : public ::testing::TestWithParam<const char*> {
 protected:
  fs::path path() const { return scratch_ / "blobs" / GetParam(); }
  fs::path part() const { return path().string() + ".incomplete"; }
  const TempDir scratch_;
};

TEST_P(Blob, GoesOnWhereItWasLeft) {
  {
    IncompleteBlob blob(path(), GetParam(), 6);
    blob.append("hel");
    EXPECT_EQ(read_text(part()), "hel");
  }
  EXPECT_EQ(read_text(part()), "hel");
  IncompleteBlob blob(path(), GetParam(), 6);
  EXPECT_EQ(blob.size(), 3U);
  blob.append("lo\n");
  EXPECT_FALSE(fs::exists(path()));
  EXPECT_TRUE(blob.commit());
  EXPECT_EQ(read_text(path()), kHello);
  EXPECT_FALSE(fs::exists(part()));
}

TEST_P(Blob, WrongBytesAreDropped) {
  {
    IncompleteBlob blob(path(), GetParam(), 6);
    blob.append("help!\n");
    EXPECT_FALSE(blob.commit());
    EXPECT_EQ(blob.size(), 0U);
    blob.append("hell");
    EXPECT_FALSE(blob.commit());
  }
  EXPECT_FALSE(fs::exists(path()));
  EXPECT_FALSE(fs::exists(part()));
}

TEST_P(Blob, ALongerPartIsOfNoUse) {
  fs::create_directories(path().parent_path());
  write_text(part(), "hello\nhello\n");
  IncompleteBlob blob(path(), GetParam(), 6);
  EXPECT_EQ(blob.size(), 0U);
  blob.append(kHello);
  EXPECT_TRUE(blob.commit());
  EXPECT_EQ(read_text(path()), kHello);
}

INSTANTIATE_TEST_SUITE_P(Both, Blob, ::testing::Values(kGit, kSha256));

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

TEST(HubCache, RefsAndListings) {
  const TempDir scratch;
  const HubCache cache(scratch.path(), "org/name");
  EXPECT_EQ(cache.commit_of("main"), std::nullopt);
  cache.set_commit("refs/pr/1", kCommit);
  EXPECT_EQ(read_text(scratch / "models--org--name/refs/refs/pr/1"), kCommit);
  EXPECT_EQ(cache.commit_of("refs/pr/1"), kCommit);
  write_text(scratch / "models--org--name/refs/main", "../../../elsewhere");
  EXPECT_EQ(cache.commit_of("main"), std::nullopt);

  const fs::path tree = scratch / "models--org--name/trees" / (std::string(kCommit) + ".json");
  EXPECT_EQ(cache.listed(kCommit), std::nullopt);
  for (const char* other : {"[", "[]", R"({"format_version": 2, "files": {}})", "{}"}) {
    write_text(tree, other);
    EXPECT_EQ(cache.listed(kCommit), std::nullopt) << other;
  }
  write_text(tree, R"({"format_version": 1, "files": {"a": {"size": 1, "blob_id": "0"}}})");
  EXPECT_EQ(cache.listed(kCommit), (Names{"a"}));
}

TEST(HubCache, LinksIntoTheBlobs) {
  const TempDir scratch;
  const HubCache cache(scratch.path(), "org/name");
  for (const char* etag : {"1", "2"}) write_text(cache.blob(etag), etag);
  cache.link(kCommit, {{"a", "1"}});
  EXPECT_EQ(cache.present(kCommit), (Names{"a"}));
  EXPECT_EQ(fs::read_symlink(cache.snapshot(kCommit) / "a"), "../../blobs/1");
  fs::create_symlink("../../blobs/gone", cache.snapshot(kCommit) / "b");
  EXPECT_EQ(cache.present(kCommit), (Names{"a"}));
  cache.link(kCommit, {{"b", "2"}});
  EXPECT_EQ(cache.present(kCommit), (Names{"a", "b"}));
  EXPECT_EQ(read_text(cache.snapshot(kCommit) / "b"), "2");
}

TEST(HubCache, DataSetsHaveTheirOwnPlaceAndFolders) {
  const TempDir scratch;
  const HubCache cache(scratch.path(), "org/name", HubKind::kDataset);
  write_text(cache.blob("1"), "1");
  EXPECT_EQ(read_text(scratch / "datasets--org--name/blobs/1"), "1");
  cache.link(kCommit, {{"a", "1"}, {"data/b", "1"}});
  cache.link(kCommit, {{"data/more/c", "1"}});
  EXPECT_EQ(cache.present(kCommit), (Names{"a", "data/b", "data/more/c"}));
  EXPECT_EQ(fs::read_symlink(cache.snapshot(kCommit) / "data/b"), "../../../blobs/1");
  EXPECT_EQ(fs::read_symlink(cache.snapshot(kCommit) / "data/more/c"), "../../../../blobs/1");
  EXPECT_EQ(read_text(cache.snapshot(kCommit) / "data/more/c"), "1");
}

// huggingface_hub's constants.py: ENV_VARS_TRUE_VALUES, in any case.
TEST(HubSettings, OfflineIsEveryTrueValueOfHuggingfaceHub) {
  const auto offline = [](const char* name, const char* value) {
    ::setenv(name, value, 1);
    const bool offline = HubSettings::from_environment().offline;
    ::unsetenv(name);
    return offline;
  };
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}) {
    for (const char* yes : {"1", "ON", "YES", "TRUE", "on", "Yes", "true"}) {
      EXPECT_TRUE(offline(name, yes)) << yes;
    }
    for (const char* no : {"", "0", "OFF", "no", "False", "2"})
      EXPECT_FALSE(offline(name, no)) << no;
  }
}

TEST(HubSettings, DataSetsHaveASwitchOfTheirOwn) {
  ::setenv("HF_DATASETS_OFFLINE", "1", 1);
  const HubSettings settings = HubSettings::from_environment();
  ::unsetenv("HF_DATASETS_OFFLINE");
  EXPECT_TRUE(settings.data_offline);
  EXPECT_FALSE(settings.offline);
}

TEST(ResolveModel, WhatExistsOrIsNoNameStaysAsItIs) {
  EXPECT_EQ(resolve_model("fixtures/hf", "--x"), "fixtures/hf");
  EXPECT_EQ(resolve_model("absent", "--x"), "absent");
  EXPECT_EQ(resolve_model("/absent/too", "--x"), "/absent/too");
  EXPECT_EQ(resolve_model("", "--x"), "");
}

}  // namespace
}  // namespace trestle
