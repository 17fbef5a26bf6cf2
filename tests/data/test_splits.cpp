// Which files a split means: cases of Hugging Face's data_files.py and of names that only look like
// it.
#include <gtest/gtest.h>

#include <fstream>

#include "data/datasets.h"
#include "data/splits.h"
#include "errors.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

TEST(Splits, AreWholeWordsOfTheName) {
  for (const char* file :
       {"train.parquet", "train-00000-of-00001.parquet", "cord_train_0.tar", "cord.train.tar",
        "my train set.tar", "train2017.tar", "0train.tar", "own-train", "data/train-0.parquet"}) {
    EXPECT_TRUE(is_of_split(file, "train")) << file;
  }
  for (const char* file : {"test-constrained.parquet", "strain.tar", "training.tar", "trainé.tar",
                           "Train.parquet", "tra-in.tar", "part.train", "0000.parquet"}) {
    EXPECT_FALSE(is_of_split(file, "train")) << file;
  }
}

TEST(Splits, MayHaveDigitsAndSeveralWords) {
  EXPECT_TRUE(is_of_split("fold1.parquet", "fold1"));
  EXPECT_TRUE(is_of_split("fold1-of-2.parquet", "fold1"));
  EXPECT_FALSE(is_of_split("fold10.parquet", "fold1"));
  EXPECT_FALSE(is_of_split("fold1a.parquet", "fold1"));
  EXPECT_TRUE(is_of_split("web-train-000000.tar", "web-train"));
  EXPECT_FALSE(is_of_split("cobweb-train-000000.tar", "web-train"));
  // A later place may be a word where an earlier one is none.
  EXPECT_TRUE(is_of_split("restrained-train.tar", "train"));
}

TEST(Splits, ADirectoryCountsMoreThanTheName) {
  EXPECT_TRUE(is_of_split("train/0000.parquet", "train"));
  EXPECT_TRUE(is_of_split("default/train-clean/a/0000.parquet", "train"));
  EXPECT_TRUE(is_of_split("test/train-0000.parquet", "test"));
  EXPECT_FALSE(is_of_split("test/train-0000.parquet", "train"));
  EXPECT_FALSE(is_of_split("constrained/0000.parquet", "train"));
  EXPECT_TRUE(is_of_split("train-test.parquet", "train"));
  EXPECT_TRUE(is_of_split("train-test.parquet", "test"));
  EXPECT_TRUE(is_of_split("test/anything.parquet", ""));
}

class Folder : public testing::InDirectory<> {
 protected:
  void add(const std::string& name) {
    fs::create_directories((directory_ / name).parent_path());
    std::ofstream(directory_ / name) << "x";
  }
  std::vector<std::string> of(const std::string& split) {
    std::vector<std::string> names;
    for (const fs::path& file : files_of_split(directory_, split, ".tar")) {
      names.push_back(file.lexically_relative(directory_).string());
    }
    return names;
  }
  void clear() const {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
};

TEST_F(Folder, IsSearchedInOrder) {
  for (const char* name : {"train-1.tar", "b/train/0.tar", "train-0.tar", "test-constrained.tar",
                           "train-0.parquet", ".train-2.tar", ".cache/train-3.tar"}) {
    add(name);
  }
  fs::create_directory_symlink(directory_ / "b", directory_ / "linked");
  using Names = std::vector<std::string>;
  EXPECT_EQ(of("train"),
            (Names{"b/train/0.tar", "linked/train/0.tar", "train-0.tar", "train-1.tar"}));
  EXPECT_EQ(of("test"), Names{"test-constrained.tar"});
  EXPECT_EQ(of("").size(), 5u);
  EXPECT_REFUSED(of("validation"),
                 "no .tar file of split 'validation'; it has those of train, test");
  const auto why_not = [&](const char* maker, const char* split) {
    return why_no_split(maker, {.path = directory_.string(), .split = split}).value_or("");
  };
  EXPECT_EQ(why_not("webdataset", "train"), "");
  EXPECT_EQ(why_not("webdataset", "validation"), "it has those of train, test");
  EXPECT_EQ(why_not("parquet", "train"), "");
  // What the other maker reads is none of its own.
  EXPECT_EQ(why_not("parquet", "test"), "it has those of train");
}

// As `datasets` 5.2.0 has them, which takes the first three for both splits.
TEST_F(Folder, AFileOfTrainingAndOfAnotherSplitIsRefused) {
  for (const auto& [name, other] :
       {std::pair{"train_test.tar", "test"}, std::pair{"train-vs-validation.tar", "validation"},
        std::pair{"train/test/0.tar", "test"}, std::pair{"training.eval.tar", "eval"}}) {
    add(name);
    const std::string word = std::string(name).starts_with("training") ? "training" : "train";
    for (const std::string& split : {word, std::string(other)}) {
      EXPECT_REFUSED(
          of(split),
          (directory_ / name).string() + " is of split '" + word + "' and of '" + other + "'",
          "rename it");
    }
    EXPECT_EQ(of(""), std::vector<std::string>{name});
    clear();
  }
  using Names = std::vector<std::string>;
  add("train-vs-validation.tar");
  EXPECT_EQ(of("train-vs-validation"), Names{"train-vs-validation.tar"});  // it is meant
  clear();
  for (const char* name : {"train/test.tar", "test/train.tar", "b/test-validation.tar"}) add(name);
  EXPECT_EQ(of("train"), Names{"train/test.tar"});
  EXPECT_EQ(of("test"), (Names{"b/test-validation.tar", "test/train.tar"}));
  EXPECT_EQ(of("validation"), Names{"b/test-validation.tar"});
}

TEST_F(Folder, WithoutSplitsIsTold) {
  for (const char* name : {"a.tar", "b.tar", "c.tar", "d.tar"}) add(name);
  EXPECT_REFUSED(of("train"), "a.tar, b.tar, c.tar, ...;");
  EXPECT_REFUSED(files_of_split(directory_, "train", ".parquet"), "no .parquet file");
}

TEST(SplitMatters, InADirectoryOnly) {
  const fs::path folder = "data/golden";
  EXPECT_TRUE(split_matters("parquet", folder));
  EXPECT_TRUE(split_matters("make_cord_v2_dataset", folder));
  EXPECT_TRUE(split_matters("webdataset", folder));
  EXPECT_FALSE(split_matters("jsonl", folder));
  EXPECT_FALSE(split_matters("parquet", folder / "own-json.parquet"));
  EXPECT_FALSE(split_matters("webdataset", folder / "web-train-{000000..000001}.tar"));
  EXPECT_REFUSED(split_matters("parquett", folder), "did you mean parquet?");
}

TEST(Files, AreThoseOfTheRowsInOrder) {
  const fs::path folder = "data/golden";
  using Paths = std::vector<fs::path>;
  EXPECT_EQ(make_dataset("parquet", folder, "vqa-train")->files(),
            Paths{folder / "own-vqa-train.parquet"});
  const Paths tars = {folder / "web-train-000000.tar", folder / "web-train-000001.tar"};
  EXPECT_EQ(make_dataset("webdataset", folder, "web-train")->files(), tars);
  const auto pattern = make_dataset("webdataset", folder / "web-train-{000001,000000}.tar", "");
  EXPECT_EQ(pattern->files(), (Paths{tars[1], tars[0]}));
  EXPECT_EQ(make_dataset("make_medpix_dataset", folder, "medpix-train")->files(),
            Paths{folder / "medpix-train-00000-of-00001.parquet"});
  EXPECT_EQ(make_dataset("make_raven_dataset", folder, "raven-train")->files(),
            Paths{folder / "raven-train-00000-of-00001.parquet"});
  const fs::path receipts = "../assets/demo/data";
  EXPECT_EQ(make_dataset("make_cord_v2_dataset", receipts, "test")->files(),
            Paths{receipts / "test.parquet"});
  EXPECT_EQ(make_dataset("jsonl", "tokenizer/golden/chats.jsonl", "")->files(),
            Paths{"tokenizer/golden/chats.jsonl"});
  EXPECT_EQ(describe_files(*pattern, folder / "web-train-{000001,000000}.tar"),
            (folder / "web-train-{000001,000000}.tar").string() +
                ": 2 files, web-train-000001.tar, web-train-000000.tar");
}

}  // namespace
}  // namespace trestle
