#include "kernels/low_rank_norms.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

at::Tensor by_operators(const at::Tensor& weight, const at::Tensor& squares,
                        const FactoredUpdate& update, int64_t rows_at_once, const Group& columns) {
  const at::Tensor gram = at::mm(update.a, update.a.t());
  std::vector<at::Tensor> sums;
  for (int64_t start = 0; start < weight.size(0); start += rows_at_once) {
    const int64_t count = std::min(rows_at_once, weight.size(0) - start);
    const at::Tensor w = weight.narrow(0, start, count).to(at::kFloat);
    const at::Tensor rows = update.b.narrow(0, start, count);
    const at::Tensor inner = at::mm(w, update.a.t()).mul_(2).add_(at::mm(rows, gram));
    sums.push_back(at::sum(inner.mul_(rows), at::IntArrayRef{1}, false, at::kDouble));
  }
  // Each term is a sum over columns.
  at::Tensor whole = squares + at::cat(sums);
  columns.all_reduce(whole);
  at::Tensor norms = whole.clamp_min_(0).sqrt_().to(at::kFloat);
  return norms.masked_fill_(norms == 0, 1);
}

// W A^T in fp32. A card multiplies bf16 with sums and results in fp32, so that W is read as it is.
at::Tensor products(const at::Tensor& weight, const FactoredUpdate& update) {
  const bool narrow =
      weight.is_cuda() && weight.scalar_type() == at::kBFloat16 && update.a_dtype == at::kBFloat16;
  return narrow ? at::mm(weight, update.a.to(at::kBFloat16).t(), at::kFloat)
                : at::mm(weight.to(at::kFloat), update.a.t());
}

at::Tensor by_kernels(const cuda::Kernels& kernels, const at::Tensor& weight,
                      const at::Tensor& squares, const FactoredUpdate& update) {
  const at::Tensor inner = products(weight, update), gram = at::mm(update.a, update.a.t());
  const at::Tensor b = update.b.contiguous(), sums = squares.contiguous();
  const at::Tensor norms = at::empty({weight.size(0)}, b.options());
  launch(kernels, &cuda::Kernels::dora_norms, "dora_norms", weight,
         cuda::DoraNorms{.type = cuda::Type::kFloat,
                         .rows = b.size(0),
                         .rank = b.size(1),
                         .products = inner.const_data_ptr<float>(),
                         .gram = gram.const_data_ptr<float>(),
                         .b = b.const_data_ptr(),
                         .squares = sums.const_data_ptr<double>(),
                         .norms = norms.mutable_data_ptr<float>()});
  return norms;
}

}  // namespace

at::Tensor low_rank_norms(const at::Tensor& weight, const at::Tensor& squares,
                          const FactoredUpdate& update, int64_t rows_at_once,
                          const Group& columns) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK(update.b.size(0) == weight.size(0) && update.a.size(1) == weight.size(1) &&
                  squares.numel() == weight.size(0),
              "an update ", update.b.sizes(), " x ", update.a.sizes(), " is of a weight ",
              weight.sizes());
  const cuda::Kernels* kernels = columns.is_one() ? kernels_for({weight}) : nullptr;
  return kernels == nullptr ? by_operators(weight, squares, update, rows_at_once, columns)
                            : by_kernels(*kernels, weight, squares, update);
}

}  // namespace trestle
