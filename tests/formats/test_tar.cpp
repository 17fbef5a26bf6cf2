// Archives of Python's tarfile in its three formats (tools/make_dataset_goldens.py), and damaged
// ones made from them.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <numeric>

#include "base/file.h"
#include "errors.h"
#include "formats/braces.h"
#include "formats/tar.h"
#include "temp_dir.h"

namespace trestle {
namespace {

const std::filesystem::path kFolder = "data/golden";
constexpr size_t kBlock = 512;

std::string long_name(size_t folders) {
  std::string name;
  for (size_t i = 0; i < folders; ++i) name += "folder-" + std::to_string(i) + "/";
  return name;
}

TEST(Tar, MembersOfEachFormat) {
  std::string block;
  for (int i = 0; i < 512; ++i) block += static_cast<char>(i % 256);
  for (const std::string form : {"ustar", "gnu", "pax"}) {
    const TarFile tar(kFolder / (form + ".tar"));
    std::vector<std::pair<std::string, std::string>> wanted = {
        {"folder/a.txt", "first"}, {"empty.txt", ""}, {"block.bin", block}};
    if (form == "ustar") {
      wanted.emplace_back(long_name(30).substr(0, 130) + "/long.txt", "long");
    } else {
      wanted.emplace_back(long_name(30) + "long.txt", "long");
      wanted.emplace_back("Straße €/日本.txt", "names");
    }
    wanted.emplace_back("last.txt", "the end");
    ASSERT_EQ(tar.members().size(), wanted.size()) << form;
    // Backwards: reading is random access.
    for (size_t i = wanted.size(); i-- > 0;) {
      EXPECT_EQ(tar.members()[i].name, wanted[i].first) << form;
      EXPECT_EQ(tar.read(tar.members()[i]), wanted[i].second) << form;
    }
  }
}

class DamagedTar : public testing::InDirectory<> {
 protected:
  void open(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
    const TarFile tar(path_);
  }
  // The same with the sum of the header at `header` mended.
  void open_mended(std::string bytes, size_t header) const {
    mend(bytes, header);
    open(bytes);
  }
  static void mend(std::string& bytes, size_t header) {
    bytes.replace(header + 148, 8, 8, ' ');
    const int sum =
        std::accumulate(bytes.begin() + static_cast<ptrdiff_t>(header),
                        bytes.begin() + static_cast<ptrdiff_t>(header + kBlock), 0,
                        [](int total, char c) { return total + static_cast<unsigned char>(c); });
    bytes.replace(header + 148, 7, fmt::format("{:06o}", sum) + std::string(1, '\0'));
  }
  static size_t header_of(const std::string& bytes, const std::string& name) {
    return bytes.find(name + '\0');
  }

  const std::string good_ = read_text(kFolder / "gnu.tar");
  const size_t a_ = header_of(good_, "folder/a.txt");
  const std::filesystem::path path_ = directory_ / "damaged.tar";
};

TEST_F(DamagedTar, AChangedByteIsFound) {
  EXPECT_NO_THROW(open(good_));
  std::string bytes = good_;
  bytes[a_] = 'F';
  EXPECT_REFUSED(open(bytes), path_.string(), "byte 512", "sums up to", "damaged");
}

TEST_F(DamagedTar, SizesAreComparedWithTheFile) {
  std::string bytes = good_;
  bytes.replace(a_ + 124, 11, "77777777777");
  EXPECT_REFUSED(open_mended(bytes, a_), "claims 8589934591 bytes", "are left in the file");
  // Base 256, near 2^64 and over it.
  bytes.replace(a_ + 124, 12, std::string("\x80\0\0\0", 4) + std::string(8, '\xff'));
  EXPECT_REFUSED(open_mended(bytes, a_), "size that is negative or over 2^63");
  bytes.replace(a_ + 124, 12, std::string(12, '\xff'));
  EXPECT_REFUSED(open_mended(bytes, a_), "negative");
  bytes.replace(a_ + 124, 11, "00000000x05");
  EXPECT_REFUSED(open_mended(bytes, a_), "no octal number");
}

TEST_F(DamagedTar, Base256SizesAreRead) {
  std::string bytes = good_;
  bytes.replace(a_ + 124, 12, std::string("\x80\0\0\0\0\0\0\0\0\0\0\5", 12));
  ASSERT_NO_THROW(open_mended(bytes, a_));
  const TarFile tar(path_);
  EXPECT_EQ(tar.read(tar.members()[0]), "first");
}

TEST_F(DamagedTar, LinksAndSparseFilesAreRefused) {
  std::string bytes = good_;
  for (const char type : {'1', '2'}) {
    bytes[a_ + 156] = type;
    EXPECT_REFUSED(open_mended(bytes, a_), "is a link", "--dereference");
  }
  bytes[a_ + 156] = 'S';
  EXPECT_REFUSED(open_mended(bytes, a_), "sparse");
}

TEST_F(DamagedTar, ACutFileIsRefused) {
  EXPECT_REFUSED(open(good_.substr(0, a_ + 100)), "has 100 bytes of a header of 512");
  EXPECT_REFUSED(open(good_.substr(0, a_ + kBlock + 3)), "claims 5 bytes, but 3 are left",
                 "cut off");
  // Between two members a file may end: some writers leave the end out.
  EXPECT_NO_THROW(open(good_.substr(0, a_)));
}

TEST_F(DamagedTar, ALongNameMayNotBeLong) {
  const std::string header_name = "././@LongLink";
  std::string bytes = good_;
  const size_t header = header_of(bytes, header_name);
  bytes.resize(bytes.size() + (2 << 20));
  bytes.replace(header + 124, 11, "00004000001");  // 1 MiB and a byte
  EXPECT_REFUSED(open_mended(bytes, header), "1048577 bytes; at most 1048576");
}

TEST_F(DamagedTar, PaxRecordsAreChecked) {
  const std::string pax = read_text(kFolder / "pax.tar");
  const size_t record = pax.find(" path=");
  ASSERT_NE(record, std::string::npos);
  const size_t begin = record - 3;
  for (const std::string_view text :
       {"999 path=", "1 path=", "-12 path", "99999999999999999999999 p"}) {
    std::string bytes = pax;
    bytes.replace(begin, text.size(), text);
    EXPECT_REFUSED(open(bytes), "pax records that do not add up");
  }
}

TEST_F(DamagedTar, OtherFilesAreNamed) {
  EXPECT_REFUSED(open("\x1f\x8b short"), "gunzip it first: random access needs a plain tar");
  EXPECT_REFUSED(open(std::string(1024, 'x')), "is no tar file");
  EXPECT_REFUSED(open("short"), "has 5 bytes of a header");
}

TEST(Braces, AreBashs) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(expand_braces("a-{008..011}.tar"),
            (Names{"a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"}));
  EXPECT_EQ(expand_braces("{x,y}/{9..10}"), (Names{"x/09", "x/10", "y/09", "y/10"}));
  EXPECT_EQ(expand_braces("plain{}{a}.tar"), (Names{"plain{}{a}.tar"}));
  EXPECT_EQ(expand_braces("open{1..2"), (Names{"open{1..2"}));
  EXPECT_REFUSED(expand_braces("{0..99999999999}"), "at most 100000");
  EXPECT_REFUSED(expand_braces("{0..999}{0..999}"), "more than 100000");
  EXPECT_REFUSED(expand_braces("{5..2}"), "count up");
}

}  // namespace
}  // namespace trestle
