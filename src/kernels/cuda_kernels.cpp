#include "kernels/cuda_kernels.h"

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

namespace trestle {

namespace {

struct Installed {
#ifdef TRESTLE_CUDA_KERNELS
  const cuda::Kernels* kernels = &cuda::all_kernels();
#else
  const cuda::Kernels* kernels = nullptr;
#endif
  c10::DeviceType type = at::kCUDA;
};

Installed& installed() {
  static Installed here;
  return here;
}

cuda::Stream current_stream(c10::Device device) {
  if (!device.is_cuda()) return nullptr;  // the emulator's kernels are done when they return
  const c10::impl::VirtualGuardImpl guard(device.type());
  return static_cast<cuda::Stream>(guard.getStream(device).native_handle());
}

constexpr uintptr_t kVectorBytes = 16;

}  // namespace

void install_kernels(const cuda::Kernels* kernels, c10::DeviceType type) {
  installed() = {kernels, type};
}

const cuda::Kernels* kernels_for(c10::Device device) {
  return device.type() == installed().type ? installed().kernels : nullptr;
}

const cuda::Kernels* kernels_for(std::initializer_list<at::Tensor> tensors) {
  const at::Tensor& first = *tensors.begin();
  const at::ScalarType dtype = first.scalar_type();
  const bool alike = std::ranges::all_of(tensors, [&](const at::Tensor& each) {
    return each.device() == first.device() && each.scalar_type() == dtype;
  });
  if (!alike || (dtype != at::kFloat && dtype != at::kBFloat16)) return nullptr;
  return kernels_for(first.device());
}

cuda::Type kernel_type(at::ScalarType dtype) {
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16, "kernels take fp32 and bf16, not ",
              dtype);
  return dtype == at::kFloat ? cuda::Type::kFloat : cuda::Type::kBFloat16;
}

at::Tensor beside_each_other(const at::Tensor& x) {
  const at::Tensor rows = x.contiguous();
  const bool aligned = reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % kVectorBytes == 0;
  return aligned ? rows : rows.clone();
}

bool asks_for_gradient(std::initializer_list<at::Tensor> tensors) {
  return c10::GradMode::is_enabled() &&
         std::ranges::any_of(tensors, [](const at::Tensor& each) { return each.requires_grad(); });
}

KernelCall::KernelCall(c10::Device device) : guard_(device), stream_(current_stream(device)) {}

void KernelCall::require(int result, const cuda::Kernels& kernels, const char* name) {
  TORCH_CHECK(result == 0, "CUDA kernel ", name, ": ", kernels.describe(result), " (", result, ")");
}

}  // namespace trestle
