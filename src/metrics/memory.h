// What of the machine's memory this process holds. Called by the metrics log and the
// trainer.
#pragma once

#include <cstdint>

#include "metrics/tensorboard.h"

namespace trestle {

/// The most that this program was resident with. The kernel's ru_maxrss is no such number: a
/// process begins with the peak of the one that started it.
int64_t peak_resident_bytes();

/// In Megatron Bridge's names and 1e9 bytes, of the process instead of CUDA's allocator: what is
/// allocated (glibc's heap), what is reserved (resident), and the most that ever was. What the
/// system does not say is left out.
Scalars process_memory();

}  // namespace trestle
