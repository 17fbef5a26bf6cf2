#include "parallel/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>

namespace trestle {

namespace {

// Of the socket once it is bound, in digits.
std::string own_address(int socket) {
  sockaddr_storage own{};
  socklen_t size = sizeof(own);
  auto* const address = reinterpret_cast<sockaddr*>(&own);
  if (::getsockname(socket, address, &size) != 0) return {};
  std::array<char, NI_MAXHOST> digits{};
  if (::getnameinfo(address, size, digits.data(), digits.size(), nullptr, 0, NI_NUMERICHOST) != 0) {
    return {};
  }
  return digits.data();
}

}  // namespace

std::string address_towards(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(found, ::freeaddrinfo);
  for (const addrinfo* each = list.get(); each != nullptr; each = each->ai_next) {
    const int socket = ::socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, 0);
    if (socket < 0) continue;
    // Of datagrams this only asks the routing table.
    const bool leads = ::connect(socket, each->ai_addr, each->ai_addrlen) == 0;
    const std::string own = leads ? own_address(socket) : "";
    ::close(socket);
    if (!own.empty() && !own.starts_with("127.") && own != "::1") return own;
  }
  return {};
}

}  // namespace trestle
