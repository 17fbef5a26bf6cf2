#include <gtest/gtest.h>

#include "base/file.h"
#include "base/file_digest.h"
#include "errors.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

std::string sha256(const std::string& bytes) {
  Digest digest(Digest::Kind::kSha256);
  digest.update(bytes);
  return digest.hex();
}

class FileDigests : public testing::InDirectory<> {
 protected:
  fs::path path() const { return directory_ / "data"; }
};

// As an archive is written: a record's head is patched when the record ends, and only then are its
// bytes settled. Small files are hashed at the end, large ones by the thread.
TEST_F(FileDigests, FollowsAWriterThatPatchesWhatIsNotSettled) {
  for (const size_t record : {size_t{10}, size_t{3 << 20}}) {
    OutputFile file(path());
    FileDigest digest(file.temporary());
    std::string whole;
    for (char c = 'a'; c < 'a' + 12; ++c) {
      const uint64_t start = file.offset();
      file.write(std::string(record, c));
      file.write_at(start, std::as_bytes(std::span("HEAD", 4)));
      digest.settled(file.offset());
      whole += "HEAD" + std::string(record - 4, c);
    }
    file.commit();  // renamed before the digest is asked for
    EXPECT_EQ(digest.finish(), sha256(whole)) << record;
  }
}

TEST_F(FileDigests, OfNothing) {
  write_text(path(), "");
  FileDigest digest(path());
  EXPECT_EQ(digest.finish(), sha256(""));
}

TEST_F(FileDigests, SaysWhereAFileEnds) {
  for (const uint64_t size : {uint64_t{100}, uint64_t{40} << 20}) {
    write_text(path(), std::string(size, 'x'));
    FileDigest digest(path());
    digest.settled(size + 1);
    testing::expect_mentions(testing::error_of<MachineError>([&] { (void)digest.finish(); }),
                             {fmt::format("data at byte {}: it has shrunk", size)});
  }
}

// Whoever gives up waits for no more than a block.
TEST_F(FileDigests, GoesWithoutBeingAsked) {
  const uint64_t size = uint64_t{20} << 20;
  write_text(path(), std::string(size, 'x'));
  FileDigest digest(path());
  digest.settled(size);
}

}  // namespace
}  // namespace trestle
