#include "parallel/nccl.h"

#include "base/error.h"
#ifdef TRESTLE_NCCL
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace trestle {

#ifdef TRESTLE_NCCL

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                               int64_t rank, int64_t size,
                                               std::chrono::milliseconds timeout) {
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, static_cast<int>(rank),
                                                     static_cast<int>(size), options);
}

#else

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>&, int64_t,
                                               int64_t size, std::chrono::milliseconds) {
  user_error(
      "{} ranks on cards need NCCL, which this build has not; build it against a CUDA build of "
      "torch (make cuda) with NCCL's header, or set train.device=cpu",
      size);
}

#endif

}  // namespace trestle
