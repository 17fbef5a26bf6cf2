// c10d's Gloo backend. Its header speaks of Gloo's own, which libtorch's package lacks: Debian's
// libgloo-dev has them. Called by World.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace trestle {

/// Of `size` ranks that meet under `store`. `is_local`: over the loopback; else the interface of
/// GLOO_SOCKET_IFNAME, or what this machine's name resolves to.
c10::intrusive_ptr<c10d::Backend> gloo_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                               int64_t rank, int64_t size, bool is_local,
                                               std::chrono::milliseconds timeout);

}  // namespace trestle
