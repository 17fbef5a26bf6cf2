// What may be read and what may be written, asked before either is done.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "base/paths.h"
#include "errors.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;

const OutputKind kKind = {.name = "thing", .mark = "<mark>"};

class Paths : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    home_ = fs::current_path();
    fs::current_path(directory_);
    write_text("file", "text");
    fs::create_directory("empty");
    fs::create_directory("full");
    write_text("full/file", "text");
    ASSERT_EQ(::mkfifo("pipe", 0600), 0);
    fs::create_symlink("/dev/null", "device");
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = "socket"};
    socket_ = ::socket(AF_UNIX, SOCK_STREAM, 0);
    ASSERT_EQ(::bind(socket_, reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
  }
  void TearDown() override {
    ::close(socket_);
    fs::current_path(home_);
  }

  fs::path home_;
  int socket_ = -1;
};

TEST_F(Paths, KindsAreSaidInWords) {
  EXPECT_EQ(kind_of("file"), "a regular file");
  EXPECT_EQ(kind_of("empty"), "a directory");
  EXPECT_EQ(kind_of("pipe"), "a pipe");
  EXPECT_EQ(kind_of("socket"), "a socket");
  EXPECT_EQ(kind_of("device"), "a device");
  EXPECT_EQ(kind_of("absent"), "");
  EXPECT_EQ(kind_of("file/below"), "");
}

TEST_F(Paths, ReadingTakesRegularFilesOnlyAndNeverWaits) {
  EXPECT_EQ(read_text("file"), "text");
  for (const auto& [path, kind] :
       {std::pair{"pipe", "a pipe"}, std::pair{"socket", "a socket"},
        std::pair{"device", "a device"}, std::pair{"full", "a directory"}}) {
    EXPECT_REFUSED(read_text(path), path, kind, "not a regular file");
  }
  EXPECT_REFUSED(read_text("absent"), "absent", "No such file");
  EXPECT_REFUSED(read_text("file/below"), "file/below", "Not a directory");
}

TEST_F(Paths, WritingReplacesRegularFilesOnly) {
  for (const char* path : {"pipe", "socket", "device", "empty", "full"}) {
    const std::string kind(kind_of(path));
    EXPECT_REFUSED(write_text(path, "new"), path, kind);
    EXPECT_EQ(kind_of(path), kind);
    EXPECT_REFUSED(require_output_file(path, "--output", kKind), "--output", path, kind);
  }
  write_text("file", "new");
  EXPECT_EQ(read_text("file"), "new");
}

TEST_F(Paths, WritingGoesThroughALink) {
  fs::create_symlink("full/file", "link");
  write_text("link", "new");
  EXPECT_TRUE(fs::is_symlink("link"));
  EXPECT_EQ(read_text("full/file"), "new");
}

TEST_F(Paths, ALinkThatLeadsNowhereIsSaidToBeOne) {
  fs::create_symlink("nowhere", "dangling");
  fs::create_symlink("loop", "loop");
  for (const std::string path : {"dangling", "loop"}) {
    const std::string said = path + " is a link to ";
    EXPECT_REFUSED(require_output_file(path, "--output", kKind), "--output " + said);
    for (const std::string& spelt : {path, path + "/"}) {
      EXPECT_REFUSED(require_new_directory(spelt, "--hf-path"), "--hf-path " + said);
      EXPECT_REFUSED(require_output_folder(spelt, "--gguf-path"), "--gguf-path " + said);
    }
    for (const std::string& below : {path + "/out", path + "/a/b"}) {
      EXPECT_REFUSED(require_output_file(below, "--output", kKind), below, said);
      EXPECT_REFUSED(require_new_directory(below, "--hf-path"), below, said);
      EXPECT_REFUSED(require_output_folder(below, "--gguf-path"), below, said);
    }
    EXPECT_REFUSED(write_text(path, "new"), said);
    EXPECT_REFUSED(OutputDirectory output(path), said);
    EXPECT_TRUE(fs::is_symlink(path));
  }
  EXPECT_FALSE(is_there("nowhere"));
}

TEST_F(Paths, AFileThatMayBeAbsentIsAFileOrNothing) {
  fs::create_symlink("full/file", "link");
  fs::create_symlink("nowhere", "dangling");
  fs::create_symlink("loop", "loop");
  for (const char* path : {"file", "link", "full/file"}) EXPECT_TRUE(has_file(path)) << path;
  for (const char* path : {"absent", "empty/absent", "file/below"}) EXPECT_FALSE(has_file(path));
  for (const char* path : {"pipe", "socket", "device", "empty"}) {
    EXPECT_REFUSED(has_file(path), path, std::string(kind_of(path)), "not a regular file",
                   "remove it");
  }
  for (const char* path : {"dangling", "loop"}) {
    EXPECT_REFUSED(has_file(path), path, "is a link to", "leads nowhere",
                   "download it again or remove it");
  }
}

TEST_F(Paths, ADirectoryReplacesAnEmptyOneThatIsOnlyADirectory) {
  for (const char* path : {"pipe", "socket", "device", "file"}) {
    EXPECT_REFUSED(OutputDirectory output(path), path, std::string(kind_of(path)), "no directory");
  }
  EXPECT_REFUSED(OutputDirectory output("full"), "full", "not empty");
  EXPECT_REFUSED(OutputDirectory output("."), "not empty");
  fs::current_path("empty");
  for (const fs::path& path : {fs::path("."), fs::path("./"), directory_ / "empty"}) {
    EXPECT_REFUSED(OutputDirectory output(path), "the current directory");
  }
  fs::current_path(directory_);
  EXPECT_NO_THROW(OutputDirectory("empty/"));
}

TEST_F(Paths, AnOutputIsNoInput) {
  fs::create_hard_link("file", "same");
  fs::create_symlink("file", "link");
  for (const char* path : {"file", "./empty/../file", "same", "link"}) {
    EXPECT_REFUSED(require_output_file(path, "--output", kKind, {"", "org/name", "file"}),
                   "--output", path, "file");
  }
  EXPECT_REFUSED(require_output_file("full/file", "--output", kKind, {"full"}), "--output",
                 "full/file", "lies in full");
  // Neither is there to be lost.
  EXPECT_NO_THROW(require_output_file("full/new", "--output", kKind, {"full"}));
  write_text("full/page.html", "<mark>");
  EXPECT_NO_THROW(require_output_file("full/page.html", "--html", kKind, {"full"}));
  write_text("own", "<mark>");
  EXPECT_NO_THROW(require_output_file("own", "--output", kKind, {"full", "absent"}));
  EXPECT_REFUSED(require_output_file("", "--output", kKind), "--output is empty");
  for (const std::string path : {"new/", ".", "full/.."}) {
    EXPECT_REFUSED(require_output_file(path, "--output", kKind),
                   "--output " + path + " names a directory");
  }
}

TEST_F(Paths, AnOutputReplacesItsOwnKindOnly) {
  write_text("late", std::string(506, ' ') + "<mark>");
  write_text("later", std::string(507, ' ') + "<mark>");
  write_text("empty-file", "");
  fs::create_symlink("file", "link");
  for (const char* path : {"late", "empty-file", "new"}) {
    EXPECT_NO_THROW(require_output_file(path, "--output", kKind)) << path;
  }
  for (const std::string path : {"file", "link", "full/file", "later"}) {
    EXPECT_EQ(error_of([&] { require_output_file(path, "--output", kKind); }),
              "--output " + path + " has " + std::to_string(fs::file_size(path)) +
                  " bytes and is no thing that trestle wrote; name another file, or remove it");
  }
}

TEST_F(Paths, ANewDirectoryKeepsAwayFromItsSource) {
  for (const char* path : {"full", "full/", "full/out", "full/a/b", "empty/../full/out"}) {
    EXPECT_REFUSED(require_new_directory(path, "--hf-path", {"full"}), "--hf-path", path,
                   "lies in full");
  }
  EXPECT_REFUSED(require_new_directory(".", "--hf-path", {"full"}), "--hf-path .", "holds full");
  EXPECT_NO_THROW(require_new_directory("full-of-it", "--hf-path", {"full"}));
  EXPECT_NO_THROW(require_new_directory("empty", "--hf-path", {"full", "org/name", ""}));
  expect_mentions(error_of<MachineError>([] { require_new_directory("file/out", "--hf-path"); }),
                  {"cannot write file/out"});
  EXPECT_NO_THROW(require_output_folder(".", "--gguf-path", {"full"}));
  EXPECT_NO_THROW(require_output_folder("full", "--gguf-path", {"file"}));
  EXPECT_REFUSED(require_output_folder("full/out", "--gguf-path", {"full"}),
                 "--gguf-path full/out lies in full");
  EXPECT_REFUSED(require_output_folder("pipe", "--gguf-path"), "--gguf-path pipe is a pipe");
}

}  // namespace
}  // namespace trestle
