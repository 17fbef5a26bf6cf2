// Pictures by URL, path and data: URI. The server is a thread of this test on 127.0.0.1.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include "base/file.h"
#include "errors.h"
#include "image/fetch.h"

namespace trestle {
namespace {

using namespace std::chrono_literals;
using testing::expect_mentions;

/// Answers every connection with what `respond` makes of the requested path, and closes it. An
/// empty answer means silence until the server ends.
class Server {
 public:
  using Respond = std::function<std::string(const std::string& path)>;

  explicit Server(Respond respond) : respond_(std::move(respond)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (listener_ < 0 || ::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_, 8) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("no socket on 127.0.0.1");
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }

  ~Server() {
    stopping_ = true;
    thread_.join();
    ::close(listener_);
  }

  std::string url(const std::string& path) const {
    return fmt::format("http://127.0.0.1:{}{}", port_, path);
  }
  int requests() const { return requests_; }

 private:
  void serve() {
    while (wait(listener_)) answer(::accept(listener_, nullptr, nullptr));
  }

  /// False when the server ends first.
  bool wait(int fd) const {
    pollfd entry{fd, POLLIN, 0};
    while (!stopping_) {
      if (::poll(&entry, 1, 20) > 0) return true;
    }
    return false;
  }

  void answer(int fd) {
    std::string request;
    char buffer[4096];
    while (request.find("\r\n\r\n") == request.npos && wait(fd)) {
      const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
      if (n <= 0) break;
      request.append(buffer, static_cast<size_t>(n));
    }
    ++requests_;
    const size_t begin = request.find(' ') + 1;
    const std::string answer = respond_(request.substr(begin, request.find(' ', begin) - begin));
    if (answer.empty()) {
      while (!stopping_) std::this_thread::sleep_for(5ms);
    }
    for (size_t sent = 0; sent < answer.size();) {
      const ssize_t n = ::send(fd, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    ::close(fd);
  }

  Respond respond_;
  int listener_ = -1;
  int port_ = 0;
  std::thread thread_;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> requests_ = 0;
};

std::string response(std::string_view status, std::string_view headers, std::string_view body) {
  return fmt::format("HTTP/1.1 {}\r\n{}Connection: close\r\n\r\n{}", status, headers, body);
}

std::string ok(std::string_view body) {
  return response("200 OK", fmt::format("Content-Length: {}\r\n", body.size()), body);
}

std::string redirect(std::string_view to) {
  return response("302 Found", fmt::format("Location: {}\r\nContent-Length: 0\r\n", to), "");
}

std::string refusal(const std::string& source, const FetchLimits& limits = {}) {
  return testing::error_of([&] { load_image(source, {}, limits); });
}

class Fetch : public ::testing::Test {
 protected:
  // A proxy of the environment must not see requests to 127.0.0.1.
  static void SetUpTestSuite() {
    ::setenv("no_proxy", "127.0.0.1", 1);
    ::setenv("NO_PROXY", "127.0.0.1", 1);
  }

  static void expect_refused(const std::string& source, const std::string& what,
                             const FetchLimits& limits = {}) {
    const std::string message = refusal(source, limits);
    EXPECT_TRUE(message.starts_with(source)) << message;
    expect_mentions(message, {what});
  }

  const std::string path_ = "image/golden/exif6.png";
  const std::string png_ = read_text(path_);
  const at::Tensor picture_ = load_image(path_);
};

TEST_F(Fetch, ServesAPicture) {
  const Server server([&](const std::string&) { return ok(png_); });
  EXPECT_TRUE(load_image(server.url("/a.png")).equal(picture_));
  EXPECT_TRUE(load_image("HTTP" + server.url("/a.png?name=x").substr(4)).equal(picture_));
  EXPECT_FALSE(
      load_image(server.url("/a.png"), {.apply_exif = false}).sizes().equals(picture_.sizes()));
  EXPECT_EQ(fetch_url(server.url("/")), png_);
}

TEST_F(Fetch, NamesTheStatus) {
  const Server server([&](const std::string& path) {
    if (path == "/empty") return response("204 No Content", "", "");
    return response(path == "/gone" ? "404 Not Found" : "503 Service Unavailable",
                    "Content-Length: 4\r\n", "page");
  });
  expect_refused(server.url("/gone"), "HTTP status 404");
  expect_refused(server.url("/busy"), "HTTP status 503");
  expect_refused(server.url("/empty"), "HTTP status 204");
}

TEST_F(Fetch, FollowsFiveRedirects) {
  const Server server([&](const std::string& path) {
    const int left = std::stoi(path.substr(1));
    return left == 0 ? ok(png_) : redirect(fmt::format("/{}", left - 1));
  });
  EXPECT_TRUE(load_image(server.url("/5")).equal(picture_));
  EXPECT_EQ(server.requests(), 6);
  expect_refused(server.url("/6"), "more than 5 redirects");
}

TEST_F(Fetch, RedirectsStayWithinHttp) {
  const std::string file = "file://" + std::filesystem::absolute(path_).string();
  const Server server([&](const std::string&) { return redirect(file); });
  expect_refused(server.url("/a"), "cannot be fetched");
}

TEST_F(Fetch, RefusesBodiesThatEndEarly) {
  const Server server([&](const std::string& path) {
    const std::string half = png_.substr(0, png_.size() / 2);
    if (path == "/short") return ok(half);
    if (path == "/chunked") {
      return response("200 OK", "Transfer-Encoding: chunked\r\n",
                      fmt::format("{:x}\r\n{}", png_.size(), half));
    }
    return response("200 OK", fmt::format("Content-Length: {}\r\n", png_.size()), half);
  });
  expect_refused(server.url("/short"), "truncated");
  expect_refused(server.url("/lying"), "cannot be fetched");
  expect_refused(server.url("/chunked"), "cannot be fetched");
}

TEST_F(Fetch, RefusesTooMuch) {
  const FetchLimits limits{.max_bytes = 50'000};
  const std::string large(200'000, 'x');
  const Server server([&](const std::string& path) {
    if (path == "/announced") return response("200 OK", "Content-Length: 99999999999\r\n", "");
    if (path == "/chunked") {
      return response("200 OK", "Transfer-Encoding: chunked\r\n",
                      fmt::format("{:x}\r\n{}\r\n0\r\n\r\n", large.size(), large));
    }
    if (path == "/fits") return ok(large.substr(0, 50'000));
    return response("200 OK", "", large);
  });
  for (const char* path : {"/announced", "/chunked", "/endless"}) {
    expect_refused(server.url(path), "over the limit of 50000 bytes", limits);
  }
  EXPECT_EQ(fetch_url(server.url("/fits"), limits).size(), 50'000u);
}

TEST_F(Fetch, GivesUpOnSilence) {
  const Server server([](const std::string&) { return std::string(); });
  expect_refused(server.url("/a"), "timed out", {.timeout = 200ms});
}

// users' pain point 33: pictures beside the rows that do not open.
TEST(PathOfSource, OfPathsAndFileUrls) {
  const auto path = [](const std::string& source) { return path_of_source(source, "folder"); };
  EXPECT_EQ(path("a.png"), "folder/a.png");
  EXPECT_EQ(path("/a.png"), "/a.png");
  EXPECT_EQ(path("scan 12:30:05.png"), "folder/scan 12:30:05.png");
  EXPECT_EQ(path("a/b://c.png"), "folder/a/b://c.png");
  EXPECT_EQ(path("file://a%20b.png"), "folder/a b.png");
  EXPECT_EQ(path("file:///a%zz%2.png"), "/a%zz%2.png");
  EXPECT_EQ(path("File://localhost/a.png"), "/a.png");
  EXPECT_EQ(path_of_source("file:/a.png"), "/a.png");
  for (const char* elsewhere : {"http://a/b.png", "HTTPS://a/b.png", "data:image/png;base64,AA"}) {
    EXPECT_FALSE(path(elsewhere)) << elsewhere;
  }
}

TEST_F(Fetch, NamesWhatCannotBeReached) {
  int port = 0;
  {
    const Server server([](const std::string&) { return std::string("x"); });
    port = std::stoi(server.url("").substr(17));
  }
  expect_refused(fmt::format("http://127.0.0.1:{}/a.png", port), "cannot be fetched");
  expect_refused("ftp://127.0.0.1/a.png", "only file://, http:// and https:// are read");
  expect_mentions(refusal("file:///absent/a.png"), {"/absent/a.png"});
  expect_mentions(refusal("image/golden/absent.png"), {"image/golden/absent.png"});
  expect_mentions(refusal("image/golden"), {"not a regular file"});
}

TEST_F(Fetch, ReadsDataUris) {
  // One pixel: 200, 100, 50.
  const std::string pixel =
      "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mM4kWIEAANWAV/"
      "W6lf+AAAAAElFTkSuQmCC";
  const at::Tensor expected = load_image("image/golden/one_pixel.png");
  EXPECT_TRUE(load_image("data:image/png;base64," + pixel).equal(expected));
  std::string wrapped = pixel;
  wrapped.insert(40, "\r\n");
  EXPECT_TRUE(load_image("DATA:image/png;charset=x;base64," + wrapped).equal(expected));

  const std::string long_garbage(5000, '*');
  const std::string message = refusal("data:image/png;base64," + long_garbage);
  expect_mentions(message, {"damaged"});
  EXPECT_LT(message.size(), 150u);
  expect_mentions(refusal("data:image/png," + pixel), {"base64"});
  expect_mentions(refusal("data:text/plain;base64," + pixel), {"data:image/"});
  expect_mentions(refusal("data:image/png;base64," + pixel.substr(0, 61)), {"truncated"});
  expect_mentions(refusal("data:image/png;base64,"), {"empty"});
  expect_mentions(refusal("data:image/png;base64," + pixel, {.max_bytes = 20}),
                  {"over the limit of 20"});
}

}  // namespace
}  // namespace trestle
