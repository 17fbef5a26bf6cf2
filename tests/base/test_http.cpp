// What needs no server; tests/image/test_fetch.cpp and tests/cli/test_hub.py have one.
#include <gtest/gtest.h>

#include "base/digest.h"
#include "base/http.h"
#include "base/progress.h"

namespace trestle {
namespace {

TEST(Http, Origins) {
  EXPECT_TRUE(same_origin("https://a.org/x", "https://a.org:443/y?z"));
  EXPECT_TRUE(same_origin("http://A.org/x", "http://a.org:80"));
  EXPECT_FALSE(same_origin("https://a.org/", "http://a.org/"));
  EXPECT_FALSE(same_origin("https://a.org/", "https://a.org:8443/"));
  EXPECT_FALSE(same_origin("https://a.org/", "https://b.a.org/"));
  EXPECT_FALSE(same_origin("https://a.org/", "https://a.org@b.org/"));
  EXPECT_FALSE(same_origin("https://a.org/", "https://a.org.b.org/"));
  EXPECT_FALSE(same_origin("", ""));
}

TEST(Http, PercentEncoding) {
  EXPECT_EQ(percent_encoded("refs/pr/4", false), "refs%2Fpr%2F4");
  EXPECT_EQ(percent_encoded("a b/c?.json", true), "a%20b/c%3F.json");
  EXPECT_EQ(percent_encoded("A-z_0.~%\xc3\xa9", true), "A-z_0.~%25%C3%A9");
}

TEST(Http, HeaderNumbers) {
  HttpResponse response;
  response.headers = {
      {"a", "12"}, {"b", "12 "}, {"c", "-1"}, {"d", ""}, {"e", "99999999999999999999"}};
  EXPECT_EQ(response.header_number("a"), 12U);
  for (const char* name : {"b", "c", "d", "e", "absent"}) {
    EXPECT_EQ(response.header_number(name), std::nullopt) << name;
  }
}

// FIPS 180-4's examples.
TEST(Digest, KnownSums) {
  Digest sha1(Digest::Kind::kSha1), sha256(Digest::Kind::kSha256);
  for (const char* part : {"a", "", "bc"}) {
    sha1.update(part);
    sha256.update(part);
  }
  EXPECT_EQ(sha1.hex(), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(sha256.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Progress, Sizes) {
  EXPECT_EQ(readable_bytes(999), "999 B");
  EXPECT_EQ(readable_bytes(1500), "1.5 kB");
  EXPECT_EQ(readable_bytes(4'670'000'000), "4.67 GB");
}

}  // namespace
}  // namespace trestle
