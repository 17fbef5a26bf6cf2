// What the declarations of CUDA kernels share: NAME.h declares for NAME.cu, without CUDA's and
// libtorch's headers, so that both sides can include it. Each call puts its work on a stream and
// returns at once; pointers are of the device, rows lie beside each other unless a stride is given.
// The result is a cudaError_t: 0, or what to say of arguments that no kernel takes.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace trestle::cuda {

using Stream = CUstream_st*;

enum class Type { kFloat, kBFloat16 };

}  // namespace trestle::cuda
