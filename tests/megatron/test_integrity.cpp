#include <gtest/gtest.h>

#include "base/file.h"
#include "errors.h"
#include "megatron/integrity.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

// SHA-256 of "abc" and of nothing, from FIPS 180-4's examples.
constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr const char* kNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

class Integrity : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    write_text(directory_ / "common.pt", "abc");
    write_text(directory_ / ".metadata", "");
    fs::create_directories(directory_ / "tokenizer");
    write_text(directory_ / "tokenizer" / "tekken.json", "{}");
    write_integrity(directory_);
  }
  void manifest(const std::string& text) const { write_text(directory_ / kIntegrity, text); }
};

// As megatron-core 0.19.2 dumps it: files in order of their names, no directory, not itself.
TEST_F(Integrity, IsWhatMegatronCoreWrites) {
  const std::string wanted = fmt::format(
      "{{\n  \"algorithm\": \"sha256\",\n  \"files\": {{\n    \".metadata\": \"{}\",\n    "
      "\"common.pt\": \"{}\"\n  }}\n}}",
      kNothing, kAbc);
  EXPECT_EQ(read_text(directory_ / kIntegrity), wanted);
  write_integrity(directory_);  // again
  EXPECT_EQ(read_text(directory_ / kIntegrity), wanted);
  EXPECT_TRUE(integrity_problems(directory_).empty());
  require_integrity(directory_);
}

TEST_F(Integrity, EachDamageIsNamed) {
  write_text(directory_ / "common.pt", "abd");
  fs::remove(directory_ / ".metadata");
  const std::vector<std::string> problems = integrity_problems(directory_);
  ASSERT_EQ(problems.size(), 2u);
  testing::expect_mentions(problems[0], {".metadata is missing"});
  testing::expect_mentions(problems[1], {"common.pt has SHA-256 ", "not ba7816bf8f01cfea..."});
  EXPECT_REFUSED(require_integrity(directory_), ".metadata is missing", "(2 such files)");
  fs::create_directory(directory_ / ".metadata");
  testing::expect_mentions(integrity_problems(directory_)[0], {".metadata is no file"});
  fs::remove(directory_ / ".metadata");
  // One that came later is nobody's business.
  write_text(directory_ / "common.pt", "abc");
  write_text(directory_ / ".metadata", "");
  write_text(directory_ / "notes.txt", "mine");
  require_integrity(directory_);
}

// Over more than one block of reading.
TEST_F(Integrity, TheLastByteOfALargeFileCounts) {
  std::string large((3 << 20) + 7, 'a');
  write_text(directory_ / "__0_0.distcp", large);
  write_integrity(directory_);
  require_integrity(directory_);
  large.back() = 'b';
  write_text(directory_ / "__0_0.distcp", large);
  EXPECT_REFUSED(require_integrity(directory_), "__0_0.distcp has SHA-256");
}

TEST_F(Integrity, WhatItLeavesOutIsNamed) {
  manifest(fmt::format(R"({{"files": {{"common.pt": "{}"}}}})", kAbc));
  EXPECT_REFUSED(require_integrity(directory_), "integrity.json does not list", "/.metadata");
  write_text(directory_ / "__3_1.distcp", "x");
  ASSERT_EQ(integrity_problems(directory_).size(), 2u);
  testing::expect_mentions(integrity_problems(directory_)[1], {"/__3_1.distcp"});
}

TEST_F(Integrity, WhatIsNoManifestIsRefused) {
  manifest("[]");
  EXPECT_REFUSED(integrity_problems(directory_), "integrity.json has no object \"files\"");
  manifest(R"({"files": {"common.pt": 3}})");
  EXPECT_REFUSED(integrity_problems(directory_), "common.pt is no name");
  manifest(R"({"files": {}})");
  EXPECT_REFUSED(integrity_problems(directory_), "integrity.json lists no files");
  manifest(R"({"algorithm": "md5", "files": {}})");
  EXPECT_REFUSED(integrity_problems(directory_), "says algorithm \"md5\"; only sha256");
  for (const std::string name :
       {"../common.pt", "/etc/passwd", "tokenizer/tekken.json", "..", ""}) {
    manifest(fmt::format(R"({{"files": {{"{}": "{}"}}}})", name, kAbc));
    EXPECT_REFUSED(integrity_problems(directory_), "is no name of a file beside it");
  }
  // Without the algorithm it is megatron-core's default.
  manifest(fmt::format(R"({{"files": {{"common.pt": "{}", ".metadata": "{}"}}}})", kAbc, kNothing));
  require_integrity(directory_);
  fs::remove(directory_ / kIntegrity);
  EXPECT_REFUSED(require_integrity(directory_), "has no integrity.json");
}

}  // namespace
}  // namespace trestle
