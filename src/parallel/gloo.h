// c10d's Gloo backend. Its header speaks of Gloo's own, which libtorch's package lacks: Debian's
// libgloo-dev has them. Called by World.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace trestle {

/// Where ranks of one machine meet.
inline constexpr const char* kThisMachine = "127.0.0.1";

/// Of `size` ranks that meet under `store`, this one at `address`, in digits: but for kThisMachine
/// GLOO_SOCKET_IFNAME names another interface. Empty: what this machine's name resolves to.
c10::intrusive_ptr<c10d::Backend> gloo_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                               int64_t rank, int64_t size,
                                               const std::string& address,
                                               std::chrono::milliseconds timeout);

}  // namespace trestle
