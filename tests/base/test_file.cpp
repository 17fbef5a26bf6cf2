#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Every name below the folder, hidden ones too.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& each : fs::recursive_directory_iterator(folder_)) {
      out.push_back(each.path().lexically_relative(folder_).string());
    }
    std::ranges::sort(out);
    return out;
  }

  const fs::path folder_ = fs::path(testing::TempDir()) / "trestle-files";
};

using Names = std::vector<std::string>;

TEST_F(Files, AppearAtCommitOrNotAtAll) {
  {
    OutputFile file(folder_ / "a" / "b" / "file");
    file.write("text");
    EXPECT_FALSE(fs::exists(folder_ / "a" / "b" / "file"));
  }
  EXPECT_EQ(names(), Names{});
  OutputFile file(folder_ / "a" / "file");
  file.write("text");
  file.commit();
  EXPECT_EQ(names(), (Names{"a", "a/file"}));
  EXPECT_EQ(read_text(folder_ / "a" / "file"), "text");
}

TEST_F(Files, ADirectoryIsExchangedWhole) {
  const auto write = [&](const std::string& name, bool replace) {
    OutputDirectory directory(folder_ / "target", replace);
    write_text(directory.path() / "sub" / name, name);
    directory.commit();
  };
  write("old", false);
  EXPECT_THROW(write("new", false), UserError);
  EXPECT_EQ(names(), (Names{"target", "target/sub", "target/sub/old"}));
  write("new", true);
  EXPECT_EQ(names(), (Names{"target", "target/sub", "target/sub/new"}));
  {
    OutputDirectory abandoned(folder_ / "target", true);
    write_text(abandoned.path() / "third", "third");
  }
  EXPECT_EQ(names(), (Names{"target", "target/sub", "target/sub/new"}));
}

TEST_F(Files, ADirectoryGoesIntoAnEmptyOneAndThroughALink) {
  fs::create_directory(folder_ / "empty");
  fs::create_directory_symlink("empty", folder_ / "link");
  OutputDirectory directory(folder_ / "link");
  write_text(directory.path() / "file", "text");
  directory.commit();
  EXPECT_EQ(names(), (Names{"empty", "empty/file", "link"}));
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  write_text(folder_ / "file", "");
  EXPECT_THROW(OutputDirectory(folder_ / "file"), UserError);
}

TEST_F(Files, LeftoversOfTheDeadAreRemovedAndOnlyThose) {
  const std::string suffix = ".tmp-0123456789abcdef";
  // As a killed process leaves them.
  fs::create_directories(folder_ / (".run" + suffix) / "iter_0000001");
  write_text(folder_ / (".run" + suffix) / "iter_0000001" / "file", "half");
  write_text(folder_ / (".file" + suffix), "half");
  // Not ours, or of another target.
  const Names others = {".file.tmp-notes", ".other" + suffix};
  for (const std::string& each : others) write_text(folder_ / each, "");
  write_text(folder_ / "file", "text");
  EXPECT_TRUE(fs::exists(folder_ / (".run" + suffix)));
  EXPECT_FALSE(fs::exists(folder_ / (".file" + suffix)));
  { OutputDirectory directory(folder_ / "run"); }
  EXPECT_EQ(names(), (Names{others[0], others[1], "file"}));
}

TEST_F(Files, WhatAnotherIsWritingStays) {
  OutputFile first(folder_ / "file");
  first.write("first");
  OutputDirectory first_directory(folder_ / "run");
  write_text(first_directory.path() / "a", "first");
  {
    OutputFile second(folder_ / "file");
    second.write("second");
    second.commit();
    OutputDirectory second_directory(folder_ / "run");
    write_text(second_directory.path() / "b", "second");
    second_directory.commit();
  }
  EXPECT_EQ(read_text(folder_ / "file"), "second");
  first.commit();
  EXPECT_EQ(read_text(folder_ / "file"), "first");
  EXPECT_THROW(first_directory.commit(),
               MachineError);  // not empty any more, and not to be replaced
  EXPECT_TRUE(fs::exists(folder_ / "run" / "b"));
}

TEST_F(Files, ReleasedPagesReadTheSame) {
  const std::string text(100'000, 'x');
  write_text(folder_ / "file", text);
  const MappedFile file(folder_ / "file");
  EXPECT_EQ(file.text(), text);
  file.release(file.bytes().subspan(1, 90'000));
  file.release({});
  EXPECT_EQ(file.text(), text);
}

TEST(Text, IsOneLineWhateverTheFileSays) {
  EXPECT_EQ(one_line("tensor a\nb\x1b[31m\tc"), "tensor a b?[31m c");
  EXPECT_EQ(one_line("caf\xc3\xa9"), "caf\xc3\xa9");
}

}  // namespace
}  // namespace trestle
