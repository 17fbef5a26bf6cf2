// What of the machine's memory this process holds. Called by the metrics log.
#pragma once

#include "metrics/tensorboard.h"

namespace trestle {

/// In Megatron Bridge's names and 1e9 bytes, of the process instead of CUDA's allocator: what is
/// allocated (glibc's heap), what is reserved (resident), and the most that ever was. What the
/// system does not say is left out.
Scalars process_memory();

}  // namespace trestle
