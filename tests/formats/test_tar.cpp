// Archives of Python's tarfile in its three formats (tools/make_dataset_goldens.py), and damaged
// ones made from them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <numeric>

#include "base/file.h"
#include "errors.h"
#include "formats/braces.h"
#include "formats/tar.h"

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

class DamagedTar : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }

  // Writes `bytes` with the sum of the header at `header` mended.
  std::string error_with(std::string bytes, size_t header = 0) {
    mend(bytes, header);
    return error_of_file(bytes);
  }
  std::string error_of_file(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return error_of([&] { TarFile tar(path_); });
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
  static void expect_words(const std::string& message, const std::vector<std::string>& words) {
    for (const std::string& word : words) {
      EXPECT_NE(message.find(word), std::string::npos) << message << "\nlacks " << word;
    }
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }

  const std::string good_ = read_text(kFolder / "gnu.tar");
  const size_t a_ = header_of(good_, "folder/a.txt");
  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() /
      fmt::format("trestle-tar-{}-{}.tar", ::getpid(),
                  ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(DamagedTar, AChangedByteIsFound) {
  EXPECT_EQ(error_of_file(good_), "no error");
  std::string bytes = good_;
  bytes[a_] = 'F';
  expect_words(error_of_file(bytes), {path_.string(), "byte 512", "sums up to", "damaged"});
}

TEST_F(DamagedTar, SizesAreComparedWithTheFile) {
  std::string bytes = good_;
  bytes.replace(a_ + 124, 11, "77777777777");
  expect_words(error_with(bytes, a_), {"claims 8589934591 bytes", "are left in the file"});
  // Base 256, near 2^64 and over it.
  bytes.replace(a_ + 124, 12, std::string("\x80\0\0\0", 4) + std::string(8, '\xff'));
  expect_words(error_with(bytes, a_), {"size that is negative or over 2^63"});
  bytes.replace(a_ + 124, 12, std::string(12, '\xff'));
  expect_words(error_with(bytes, a_), {"negative"});
  bytes.replace(a_ + 124, 11, "00000000x05");
  expect_words(error_with(bytes, a_), {"no octal number"});
}

TEST_F(DamagedTar, Base256SizesAreRead) {
  std::string bytes = good_;
  bytes.replace(a_ + 124, 12, std::string("\x80\0\0\0\0\0\0\0\0\0\0\5", 12));
  ASSERT_EQ(error_with(bytes, a_), "no error");
  const TarFile tar(path_);
  EXPECT_EQ(tar.read(tar.members()[0]), "first");
}

TEST_F(DamagedTar, LinksAndSparseFilesAreRefused) {
  std::string bytes = good_;
  for (const char type : {'1', '2'}) {
    bytes[a_ + 156] = type;
    expect_words(error_with(bytes, a_), {"is a link", "--dereference"});
  }
  bytes[a_ + 156] = 'S';
  expect_words(error_with(bytes, a_), {"sparse"});
}

TEST_F(DamagedTar, ACutFileIsRefused) {
  expect_words(error_of_file(good_.substr(0, a_ + 100)), {"has 100 bytes of a header of 512"});
  expect_words(error_of_file(good_.substr(0, a_ + kBlock + 3)),
               {"claims 5 bytes, but 3 are left", "cut off"});
  // Between two members a file may end: some writers leave the end out.
  EXPECT_EQ(error_of_file(good_.substr(0, a_)), "no error");
}

TEST_F(DamagedTar, ALongNameMayNotBeLong) {
  const std::string header_name = "././@LongLink";
  std::string bytes = good_;
  const size_t header = header_of(bytes, header_name);
  bytes.resize(bytes.size() + (2 << 20));
  bytes.replace(header + 124, 11, "00004000001");  // 1 MiB and a byte
  expect_words(error_with(bytes, header), {"1048577 bytes; at most 1048576"});
}

TEST_F(DamagedTar, PaxRecordsAreChecked) {
  const std::string pax = read_text(kFolder / "pax.tar");
  const size_t record = pax.find(" path=");
  ASSERT_NE(record, std::string::npos);
  const size_t begin = record - 3;
  const auto with = [&](std::string_view text) {
    std::string bytes = pax;
    bytes.replace(begin, text.size(), text);
    return error_of_file(bytes);
  };
  expect_words(with("999 path="), {"pax records that do not add up"});
  expect_words(with("1 path="), {"pax records that do not add up"});
  expect_words(with("-12 path"), {"pax records that do not add up"});
  expect_words(with("99999999999999999999999 p"), {"pax records that do not add up"});
}

TEST_F(DamagedTar, OtherFilesAreNamed) {
  expect_words(error_of_file("\x1f\x8b short"),
               {"gunzip it first: random access needs a plain tar"});
  expect_words(error_of_file(std::string(1024, 'x')), {"is no tar file"});
  expect_words(error_of_file("short"), {"has 5 bytes of a header"});
}

TEST(Braces, AreBashs) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(expand_braces("a-{008..011}.tar"),
            (Names{"a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"}));
  EXPECT_EQ(expand_braces("{x,y}/{9..10}"), (Names{"x/09", "x/10", "y/09", "y/10"}));
  EXPECT_EQ(expand_braces("plain{}{a}.tar"), (Names{"plain{}{a}.tar"}));
  EXPECT_EQ(expand_braces("open{1..2"), (Names{"open{1..2"}));
  EXPECT_NE(error_of([] { expand_braces("{0..99999999999}"); }).find("at most 100000"),
            std::string::npos);
  EXPECT_NE(error_of([] { expand_braces("{0..999}{0..999}"); }).find("more than 100000"),
            std::string::npos);
  EXPECT_NE(error_of([] { expand_braces("{5..2}"); }).find("count up"), std::string::npos);
}

}  // namespace
}  // namespace trestle
