#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "errors.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Files : public testing::InDirectory<> {
 protected:
  // Every name below the folder, hidden ones too.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& each : fs::recursive_directory_iterator(directory_)) {
      out.push_back(each.path().lexically_relative(directory_).string());
    }
    std::ranges::sort(out);
    return out;
  }
};

using Names = std::vector<std::string>;

TEST_F(Files, AppearAtCommitOrNotAtAll) {
  {
    OutputFile file(directory_ / "a" / "b" / "file");
    file.write("text");
    EXPECT_FALSE(fs::exists(directory_ / "a" / "b" / "file"));
  }
  EXPECT_EQ(names(), Names{});
  OutputFile file(directory_ / "a" / "file");
  file.write("text");
  file.commit();
  EXPECT_EQ(names(), (Names{"a", "a/file"}));
  EXPECT_EQ(read_text(directory_ / "a" / "file"), "text");
}

TEST_F(Files, ADirectoryIsExchangedWhole) {
  const auto write = [&](const std::string& name, bool replace) {
    OutputDirectory directory(directory_ / "target", replace);
    write_text(directory.path() / "sub" / name, name);
    directory.commit();
  };
  write("old", false);
  EXPECT_REFUSED(write("new", false), "not empty");
  EXPECT_EQ(names(), (Names{"target", "target/sub", "target/sub/old"}));
  write("new", true);
  EXPECT_EQ(names(), (Names{"target", "target/sub", "target/sub/new"}));
  {
    OutputDirectory abandoned(directory_ / "target", true);
    write_text(abandoned.path() / "third", "third");
  }
  EXPECT_EQ(names(), (Names{"target", "target/sub", "target/sub/new"}));
}

TEST_F(Files, ADirectoryGoesIntoAnEmptyOneAndThroughALink) {
  fs::create_directory(directory_ / "empty");
  fs::create_directory_symlink("empty", directory_ / "link");
  OutputDirectory directory(directory_ / "link");
  write_text(directory.path() / "file", "text");
  directory.commit();
  EXPECT_EQ(names(), (Names{"empty", "empty/file", "link"}));
  EXPECT_TRUE(fs::is_symlink(directory_ / "link"));
  write_text(directory_ / "file", "");
  EXPECT_REFUSED(OutputDirectory(directory_ / "file"), "no directory");
}

TEST_F(Files, LeftoversOfTheDeadAreRemovedAndOnlyThose) {
  const std::string suffix = ".tmp-0123456789abcdef";
  // As a killed process leaves them.
  fs::create_directories(directory_ / (".run" + suffix) / "iter_0000001");
  write_text(directory_ / (".run" + suffix) / "iter_0000001" / "file", "half");
  write_text(directory_ / (".file" + suffix), "half");
  // Not ours, or of another target.
  const Names others = {".file.tmp-notes", ".other" + suffix};
  for (const std::string& each : others) write_text(directory_ / each, "");
  write_text(directory_ / "file", "text");
  EXPECT_TRUE(fs::exists(directory_ / (".run" + suffix)));
  EXPECT_FALSE(fs::exists(directory_ / (".file" + suffix)));
  { OutputDirectory directory(directory_ / "run"); }
  EXPECT_EQ(names(), (Names{others[0], others[1], "file"}));
}

TEST_F(Files, WhatAnotherIsWritingStays) {
  OutputFile first(directory_ / "file");
  first.write("first");
  OutputDirectory first_directory(directory_ / "run");
  write_text(first_directory.path() / "a", "first");
  {
    OutputFile second(directory_ / "file");
    second.write("second");
    second.commit();
    OutputDirectory second_directory(directory_ / "run");
    write_text(second_directory.path() / "b", "second");
    second_directory.commit();
  }
  EXPECT_EQ(read_text(directory_ / "file"), "second");
  first.commit();
  EXPECT_EQ(read_text(directory_ / "file"), "first");
  // Not empty any more, and not to be replaced.
  testing::expect_mentions(testing::error_of<MachineError>([&] { first_directory.commit(); }),
                           {"cannot write " + (directory_ / "run").string()});
  EXPECT_TRUE(fs::exists(directory_ / "run" / "b"));
}

TEST_F(Files, ReleasedPagesReadTheSame) {
  const std::string text(100'000, 'x');
  write_text(directory_ / "file", text);
  const MappedFile file(directory_ / "file");
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
