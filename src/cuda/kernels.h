// All CUDA kernels as one table, so that who calls them need not be linked with them: a program is
// built with an nvcc or without, and tests have the table of an emulator. Held by
// kernels/cuda_kernels.h.
#pragma once

#include "cuda/adamw.h"
#include "cuda/cross_entropy.h"
#include "cuda/decode_attention.h"
#include "cuda/dequantize.h"
#include "cuda/dora.h"
#include "cuda/gradient_norm.h"
#include "cuda/rms_norm.h"
#include "cuda/rope.h"
#include "cuda/row_product.h"
#include "cuda/sample.h"
#include "cuda/swiglu.h"

namespace trestle::cuda {

template <class... Args>
using Launcher = int (*)(const Args&..., Stream);

/// Each is what the header of its name declares.
struct Kernels {
  Launcher<AdamW> adamw;
  Launcher<CrossEntropy> cross_entropy;
  Launcher<DecodeAttention> decode_attention;
  Launcher<Tile, QuantizedCodes> dequantize_nf4, dequantize_int8;
  Launcher<Tile, Fp8Codes> dequantize_fp8;
  Launcher<DoraNorms> dora_norms;
  Launcher<GradientNormArgs> gradient_norm;
  Launcher<RmsNormForward> rms_norm_forward;
  Launcher<RmsNormBackward> rms_norm_backward;
  Launcher<Rope> rope;
  int (*row_product)(const RowProduct&, const void* weight, Stream);
  Launcher<RowProduct, QuantizedCodes> row_product_nf4, row_product_int8;
  Launcher<RowProduct, Fp8Codes> row_product_fp8;
  Launcher<Sample> sample;
  Launcher<SwigluForward> swiglu_forward;
  Launcher<SwigluBackward> swiglu_backward;
  /// What CUDA says of a result that is not 0.
  const char* (*describe)(int result);
};

/// Those of this build. Linked only where .cu files are.
const Kernels& all_kernels();

}  // namespace trestle::cuda
