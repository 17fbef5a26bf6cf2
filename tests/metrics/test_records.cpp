// Checks and encodings of record files, by their specifications' vectors, and charts.
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "base/base64.h"
#include "base/chart.h"
#include "base/text.h"
#include "metrics/crc.h"
#include "metrics/protobuf.h"

namespace trestle {
namespace {

TEST(Crc, IsIeees) {
  EXPECT_EQ(crc32(""), 0u);
  EXPECT_EQ(crc32("123456789"), 0xcbf43926u);
}

// RFC 4648, section 10, and every byte.
TEST(Base64, IsTheRfcs) {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [text, encoded] : vectors) {
    EXPECT_EQ(base64(text), encoded);
    EXPECT_EQ(decode_base64(encoded), text);
  }
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  EXPECT_EQ(decode_base64(base64(bytes)), bytes);
  for (const char* bad : {"Zg", "Zg=", "Z===", "====", "Zm9v\n", "Zm 9", "Zm=v", "Zm9-", "=m9v"}) {
    EXPECT_EQ(decode_base64(bad), std::nullopt) << bad;
  }
}

TEST(Trimmed, HasNoBlanksAtItsEnds) {
  EXPECT_EQ(trimmed(" \t\r\na b\n "), "a b");
  EXPECT_EQ(trimmed("a"), "a");
  EXPECT_EQ(trimmed(" \n"), "");
  EXPECT_EQ(trimmed(""), "");
}

// RFC 3720 B.4, whose bytes are the checks' lowest first.
TEST(Crc, IsCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising, falling;
  for (int i = 0; i < 32; ++i) {
    rising += static_cast<char>(i);
    falling += static_cast<char>(31 - i);
  }
  EXPECT_EQ(crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(crc32c(falling), 0x113fdb5cu);
}

// The examples of protobuf.dev/programming-guides/encoding.
TEST(Protobuf, IsTheWireFormat) {
  EXPECT_EQ(ProtoMessage().varint(1, 150).bytes(), "\x08\x96\x01");
  EXPECT_EQ(ProtoMessage().text(2, "testing").bytes(), "\x12\x07testing");
  const ProtoMessage inner = ProtoMessage().varint(1, 150);
  EXPECT_EQ(ProtoMessage().message(3, inner).bytes(), "\x1a\x03\x08\x96\x01");
  // A negative int64 takes ten bytes.
  const auto minus_two = static_cast<uint64_t>(int64_t{-2});
  EXPECT_EQ(ProtoMessage().varint(1, minus_two).bytes(),
            "\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
  EXPECT_EQ(ProtoMessage().fixed64(1, 1.0).bytes(), std::string("\x09\0\0\0\0\0\0\xf0\x3f", 9));
  EXPECT_EQ(ProtoMessage().fixed32(2, -2.0f).bytes(), std::string("\x15\0\0\0\xc0", 5));
  EXPECT_EQ(ProtoMessage().varint(200, 1).bytes(), "\xc0\x0c\x01");
}

TEST(Chart, DrawsWhatIsFinite) {
  EXPECT_EQ(line_chart("nothing", {}, ValueAxis::kLinear), "");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(line_chart("nothing", {{"a", {{1, nan}}}}, ValueAxis::kLog), "");
  const std::string svg =
      line_chart("a < b", {{"a", {{1, 2}, {2, nan}, {3, 4}}}, {"b", {{2, 3}}}}, ValueAxis::kLinear);
  EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos) << svg;
  EXPECT_NE(svg.find("step 3"), std::string::npos) << svg;
}

TEST(Chart, ALongCurveIsThinnedAndKeepsItsEnd) {
  Curve curve{"loss", {}};
  for (int i = 1; i <= 100'000; ++i) curve.points.emplace_back(i, 1.0 / i);
  const std::string svg = line_chart("loss", {curve}, ValueAxis::kLog);
  EXPECT_LT(svg.size(), 20'000u);
  EXPECT_NE(svg.find("step 100000"), std::string::npos);
}

}  // namespace
}  // namespace trestle
