#include <cuda_runtime.h>

#include "cuda/kernels.h"

namespace trestle::cuda {

namespace {

const char* describe(int result) { return cudaGetErrorString(static_cast<cudaError_t>(result)); }

}  // namespace

const Kernels& all_kernels() {
  static const Kernels kernels{.adamw = adamw,
                               .cross_entropy = cross_entropy,
                               .decode_attention = decode_attention,
                               .dequantize_nf4 = dequantize_nf4,
                               .dequantize_int8 = dequantize_int8,
                               .dequantize_fp8 = dequantize_fp8,
                               .dora_norms = dora_norms,
                               .gradient_norm = gradient_norm,
                               .rms_norm_forward = rms_norm_forward,
                               .rms_norm_backward = rms_norm_backward,
                               .rope = rope,
                               .row_product = row_product,
                               .row_product_nf4 = row_product_nf4,
                               .row_product_int8 = row_product_int8,
                               .row_product_fp8 = row_product_fp8,
                               .sample = sample,
                               .swiglu_forward = swiglu_forward,
                               .swiglu_backward = swiglu_backward,
                               .describe = describe};
  return kernels;
}

}  // namespace trestle::cuda
