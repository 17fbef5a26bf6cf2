#include "launch/endpoint.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/number.h"

namespace trestle {

namespace {

using namespace std::chrono_literals;

// Of one address; a host that is off does not answer at all.
constexpr int kConnectMs = 3000;

// 0, or why there is no connection.
int connect_to(const addrinfo& address) {
  const OwnDescriptor socket(
      ::socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.is_open()) return errno;
  if (::connect(socket.get(), address.ai_addr, address.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd polled{socket.get(), POLLOUT, 0};
  if (::poll(&polled, 1, kConnectMs) != 1) return ETIMEDOUT;
  int why = 0;
  socklen_t size = sizeof why;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &why, &size);
  return why;
}

// "", or why not.
std::string try_endpoint(const Endpoint& endpoint) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unknown =
      ::getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &found);
  if (unknown != 0) return ::gai_strerror(unknown);
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  int why = 0;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    why = connect_to(*each);
    if (why == 0) return "";
  }
  return std::strerror(why);
}

// -1 and errno where it cannot be.
OwnDescriptor listening_socket(int family, int port, bool loopback_alone) {
  OwnDescriptor socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return socket;
  const int on = 1, off = 0;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_storage address{};
  socklen_t size = sizeof(sockaddr_in);
  if (family == AF_INET6) {
    ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(static_cast<uint16_t>(port));
    size = sizeof v6;
  } else {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(static_cast<uint16_t>(port));
    v4.sin_addr.s_addr = htonl(loopback_alone ? INADDR_LOOPBACK : INADDR_ANY);
  }
  // Until it listens another socket may have the port too.
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0 &&
      ::listen(socket.get(), SOMAXCONN) == 0) {
    return socket;
  }
  const int why = errno;
  socket.close();
  errno = why;
  return socket;
}

}  // namespace

std::string Endpoint::text() const {
  const bool is_v6 = host.find(':') != host.npos;
  return is_v6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

Endpoint parse_endpoint(std::string_view flag, std::string_view text) {
  const size_t colon = text.rfind(':');
  std::string_view host = text.substr(0, colon);
  const bool in_brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (in_brackets) host = host.substr(1, host.size() - 2);
  int64_t port = 0;
  const bool has_port = colon != text.npos && number_problem(text.substr(colon + 1), port).empty();
  const bool is_host = !host.empty() && host.find_first_of("[]/ \t") == host.npos &&
                       (in_brackets || host.find(':') == host.npos);
  if (!has_port || !is_host || port < 1 || port > 65535) {
    user_error("{} '{}' is no HOST:PORT such as node0:29500 or [::1]:29500", flag, text);
  }
  return {.host = std::string(host), .port = static_cast<int>(port)};
}

Listening listen_on(int port, bool loopback_alone) {
  Listening out;
  if (!loopback_alone) out.socket = listening_socket(AF_INET6, port, false);
  if (!out.socket.is_open()) out.socket = listening_socket(AF_INET, port, loopback_alone);
  if (!out.socket.is_open()) {
    machine_error("cannot listen on port {}: {}; another program has it, choose another one", port,
                  std::strerror(errno));
  }
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(out.socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
  out.port =
      ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                          : reinterpret_cast<const sockaddr_in&>(address).sin_port);
  return out;
}

void await_endpoint(const Endpoint& endpoint, std::chrono::seconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const std::string why = try_endpoint(endpoint);
    if (why.empty()) return;
    if (std::chrono::steady_clock::now() >= end) {
      machine_error(
          "--rdzv-endpoint {} cannot be reached within {} s: {}; is trestle launch --node-rank 0 "
          "running there?",
          endpoint.text(), timeout.count(), why);
    }
    std::this_thread::sleep_for(200ms);
  }
}

}  // namespace trestle
