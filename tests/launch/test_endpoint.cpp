// HOST:PORT, and what is said of a place where nobody answers.
#include "errors.h"
#include "launch/endpoint.h"
#include "launch/supervisor.h"

namespace trestle {
namespace {

using namespace std::chrono_literals;

TEST(Endpoint, IsHostAndPort) {
  for (const char* text : {"node0:29500", "10.0.0.1:1", "[::1]:65535", "[fe80::1%eth0]:80"}) {
    EXPECT_EQ(parse_endpoint("--rdzv-endpoint", text).text(), text);
  }
  EXPECT_EQ(parse_endpoint("--rdzv-endpoint", "[::1]:5").host, "::1");
  EXPECT_EQ(parse_endpoint("--rdzv-endpoint", "node0:29500").port, 29500);
}

TEST(Endpoint, AnotherTextIsRefused) {
  for (const char* text : {"", "host", ":1", "host:", "host:0", "host:65536", "host:1x", "a:b:1",
                           "[::1]", "[]:1", "http://host:1", "a b:1"}) {
    EXPECT_REFUSED(parse_endpoint("--rdzv-endpoint", text),
                   std::string("--rdzv-endpoint '") + text + "' is no HOST:PORT");
  }
}

TEST(Endpoint, IsWaitedForAndNamed) {
  // Where nobody listens any more.
  const Endpoint endpoint{.host = "127.0.0.1", .port = listen_on(0, true).port};
  const std::string refused =
      testing::error_of<MachineError>([&] { await_endpoint(endpoint, 0s); });
  testing::expect_mentions(refused, {"--rdzv-endpoint " + endpoint.text(), "Connection refused"});
  const std::string unknown = testing::error_of<MachineError>(
      [&] { await_endpoint({.host = "host.invalid", .port = 1}, 0s); });
  testing::expect_mentions(unknown, {"--rdzv-endpoint host.invalid:1"});
}

TEST(Endpoint, ATakenPortIsNamed) {
  const Listening bound = listen_on(0, false);
  EXPECT_GT(bound.port, 0);
  const std::string taken =
      testing::error_of<MachineError>([&] { (void)listen_on(bound.port, false); });
  testing::expect_mentions(taken, {"port " + std::to_string(bound.port), "in use"});
}

TEST(IsEcho, OfErrorsThatSpeakOfAnotherRank) {
  EXPECT_TRUE(is_echo("trestle: [../pair.cc:534] Connection closed by peer [::1]:40111"));
  EXPECT_TRUE(is_echo("trestle: Connection reset by peer"));
  EXPECT_FALSE(is_echo("trestle: checkpoint.save=run: No space left on device"));
  EXPECT_FALSE(is_echo(""));
}

}  // namespace
}  // namespace trestle
