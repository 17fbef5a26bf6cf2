#include "kernels/row_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "cpu/code_product.h"
#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

static_assert(kMostCodeProductRows == cuda::kMostProductRows);
// Codes that one thread takes at least.
constexpr int64_t kGrain = 1 << 16;

const cuda::Kernels* kernels_of(const at::Tensor& x_BK) { return kernels_for({x_BK}); }

at::Tensor result_of(const at::Tensor& x_BK, const at::Tensor& codes) {
  return at::empty({x_BK.size(0), codes.size(0)}, x_BK.options());
}

cuda::RowProduct args_of(const at::Tensor& x_BK, const at::Tensor& y) {
  return {.type = kernel_type(x_BK.scalar_type()),
          .batch = x_BK.size(0),
          .rows = y.size(1),
          .columns = x_BK.size(1),
          .x = x_BK.const_data_ptr(),
          .y = y.mutable_data_ptr()};
}

at::Tensor on_the_processor(const at::Tensor& x_BK, const CodedRows& weight) {
  const int64_t padding = (kCodeBlock - weight.columns % kCodeBlock) % kCodeBlock;
  const at::Tensor x = at::constant_pad_nd(x_BK.to(at::kFloat), {0, padding}).contiguous();
  at::Tensor y = at::empty({x.size(0), weight.rows}, x.options());
  auto* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, weight.rows,
                   std::max<int64_t>(1, kGrain / std::max<int64_t>(1, weight.columns)),
                   [&](int64_t first, int64_t last) {
                     code_product(weight, x.const_data_ptr<float>(), x.size(0), first, last, to);
                   });
  return y.to(x_BK.scalar_type());
}

}  // namespace

bool takes_row_product(const at::Tensor& x_BK) {
  const at::ScalarType dtype = x_BK.scalar_type();
  return x_BK.dim() == 2 && x_BK.size(0) <= cuda::kMostProductRows &&
         (dtype == at::kFloat || dtype == at::kBFloat16) &&
         (x_BK.is_cpu() || kernels_of(x_BK) != nullptr) && !asks_for_gradient({x_BK});
}

at::Tensor row_product(const at::Tensor& x_BK, const at::Tensor& codes, const at::Tensor& absmax) {
  const bool is_nf4 = codes.scalar_type() == at::kByte;
  const cuda::Kernels* kernels = kernels_of(x_BK);
  if (kernels == nullptr) {
    return on_the_processor(x_BK, {.form = is_nf4 ? CodedRows::Form::kNf4 : CodedRows::Form::kInt8,
                                   .rows = codes.size(0),
                                   .columns = x_BK.size(1),
                                   .codes = static_cast<const uint8_t*>(codes.const_data_ptr()),
                                   .scales = absmax.const_data_ptr<float>()});
  }
  const at::Tensor x = beside_each_other(x_BK), y = result_of(x, codes);
  const cuda::QuantizedCodes weight{codes.const_data_ptr(), absmax.const_data_ptr<float>(),
                                    codes.size(1), absmax.size(1)};
  launch(*kernels, is_nf4 ? &cuda::Kernels::row_product_nf4 : &cuda::Kernels::row_product_int8,
         is_nf4 ? "row_product_nf4" : "row_product_int8", x, args_of(x, y), weight);
  return y;
}

at::Tensor row_product_fp8(const at::Tensor& x_BK, const at::Tensor& codes,
                           const at::Tensor& scales, const at::Tensor& grid_row,
                           int64_t block_columns) {
  const cuda::Kernels* kernels = kernels_of(x_BK);
  if (kernels == nullptr) {
    return on_the_processor(x_BK, {.form = CodedRows::Form::kFp8,
                                   .rows = codes.size(0),
                                   .columns = x_BK.size(1),
                                   .codes = static_cast<const uint8_t*>(codes.const_data_ptr()),
                                   .scales = scales.const_data_ptr<float>(),
                                   .grid_row = grid_row.const_data_ptr<int32_t>(),
                                   .grid_columns = scales.size(1),
                                   .block_columns = block_columns});
  }
  const at::Tensor x = beside_each_other(x_BK), y = result_of(x, codes);
  const cuda::Fp8Codes weight{.codes = codes.const_data_ptr(),
                              .scales = scales.const_data_ptr<float>(),
                              .grid_row = grid_row.const_data_ptr<int32_t>(),
                              .code_stride = codes.size(1),
                              .grid_columns = scales.size(1),
                              .block_columns = block_columns,
                              .first_column = 0};
  launch(*kernels, &cuda::Kernels::row_product_fp8, "row_product_fp8", x, args_of(x, y), weight);
  return y;
}

}  // namespace trestle
