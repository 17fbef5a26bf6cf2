// c10d's NCCL backend, in builds against a CUDA build of torch whose NCCL's header is found
// (cmake/torch_cuda.cmake). Called by World.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace trestle {

/// Of `size` ranks that meet under `store`, each on the card that is current. Throws UserError in a
/// build without it.
c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                               int64_t rank, int64_t size,
                                               std::chrono::milliseconds timeout);

}  // namespace trestle
