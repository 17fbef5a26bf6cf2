// Which tensors CUDA kernels take, and how one is called. Asked by the operators of this room that
// have such a kernel (rms_norm.h, swiglu.h, ...); what no kernel takes is libtorch's.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include <initializer_list>

#include "cuda/kernels.h"

namespace trestle {

/// From here on `kernels` take the tensors of devices of that type; null: no kernel takes any. In a
/// build with CUDA kernels those of cards have them from the start; tests give the CPU's an
/// emulator's. Not while another thread computes.
void install_kernels(const cuda::Kernels* kernels, c10::DeviceType type);

/// Null where libtorch's operators compute with tensors on `device`.
const cuda::Kernels* kernels_for(c10::Device device);
/// Of tensors that a kernel reads together: null also where they are not of one device and one
/// dtype, fp32 or bf16.
const cuda::Kernels* kernels_for(std::initializer_list<at::Tensor> tensors);

/// As kernels name it; fp32 or bf16.
cuda::Type kernel_type(at::ScalarType dtype);

/// Rows that lie beside each other from a multiple of 16 bytes on: `x`, or a copy.
at::Tensor beside_each_other(const at::Tensor& x);

/// Whether a result that is made of these now has a gradient.
bool asks_for_gradient(std::initializer_list<at::Tensor> tensors);

/// Where a kernel's work goes: `device`, to the end of the scope, and its current stream.
class KernelCall {
 public:
  explicit KernelCall(c10::Device device);
  cuda::Stream stream() const { return stream_; }
  /// Throws what CUDA says where `result` is not 0.
  static void require(int result, const cuda::Kernels& kernels, const char* name);

 private:
  c10::DeviceGuard guard_;
  cuda::Stream stream_;
};

/// kernel(args..., stream), one of `kernels`, where x is.
template <class Kernel, class... Args>
void launch(const cuda::Kernels& kernels, Kernel cuda::Kernels::*kernel, const char* name,
            const at::Tensor& x, const Args&... args) {
  const KernelCall call(x.device());
  KernelCall::require((kernels.*kernel)(args..., call.stream()), kernels, name);
}

}  // namespace trestle
