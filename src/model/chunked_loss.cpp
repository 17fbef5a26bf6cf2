#include "model/chunked_loss.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/matrix_product.h"

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// fn(first, count) for blocks that cover `total`, each of `width` elements an entry.
template <class Function>
void for_blocks(int64_t total, int64_t width, int64_t elements, const Function& fn) {
  const int64_t step = std::max<int64_t>(1, elements / std::max<int64_t>(1, width));
  for (int64_t first = 0; first < total; first += step) fn(first, std::min(step, total - first));
}

class ChunkedCrossEntropy : public torch::autograd::Function<ChunkedCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND,
                            const at::Tensor& weight_VD, const at::Tensor& targets_N,
                            int64_t elements, bool x_trains, bool weight_trains,
                            const Group& vocabulary) {
    const int64_t rows = x_ND.size(0);
    const SoftmaxRows all = SoftmaxRows::of(rows, x_ND.device());
    const at::Tensor dx_ND = x_trains ? at::empty_like(x_ND) : at::Tensor();
    for_blocks(rows, weight_VD.size(0), elements, [&](int64_t first, int64_t count) {
      const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, first, count); };
      const at::Tensor gradient =
          cross_entropy(times_transposed(part(x_ND), weight_VD), part(targets_N),
                        all.narrow(first, count), x_trains, vocabulary);
      if (x_trains) part(dx_ND).copy_(times(gradient, weight_VD));
    });
    ctx->saved_data["elements"] = elements;
    ctx->save_for_backward(
        weight_trains ? variable_list{dx_ND, x_ND, weight_VD, targets_N, all.largest, all.sum}
                      : variable_list{dx_ND});
    return all.losses.sum();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& up = gradients[0];
    at::Tensor dx_ND, dw_VD;
    if (saved[0].defined()) dx_ND = saved[0] * up.to(saved[0].scalar_type());
    if (saved.size() > 1) {
      dw_VD = weight_gradient(saved[1], saved[2], saved[3], {{}, saved[4], saved[5]}, up,
                              ctx->saved_data["elements"].toInt());
    }
    return {dx_ND, dw_VD, {}, {}, {}, {}, {}};
  }

 private:
  // A block of the vocabulary sums over all rows in one product, so that a gradient below fp32 is
  // rounded once.
  static at::Tensor weight_gradient(const at::Tensor& x_ND, const at::Tensor& weight_VD,
                                    const at::Tensor& targets_N, const SoftmaxRows& softmax,
                                    const at::Tensor& up, int64_t elements) {
    at::Tensor dw_VD = at::empty_like(weight_VD);
    for_blocks(weight_VD.size(0), x_ND.size(0), elements, [&](int64_t first, int64_t count) {
      at::Tensor values = times_transposed(x_ND, weight_VD.narrow(0, first, count)).to(at::kFloat);
      values.sub_(softmax.largest).exp_().div_(softmax.sum);
      // Every row takes something from one logit: 1 where its target is in this block, else 0. To
      // look for those rows would wait for the device.
      const at::Tensor here = targets_N.ge(first).logical_and_(targets_N.lt(first + count));
      values.scatter_add_(1, (targets_N - first).clamp_(0, count - 1).unsqueeze(1),
                          here.to(at::kFloat).neg_().unsqueeze(1));
      at::Tensor block = dw_VD.narrow(0, first, count);
      transposed_times_out(block, values.mul_(up).to(x_ND.scalar_type()), x_ND);
    });
    return dw_VD;
  }
};

}  // namespace

at::Tensor chunked_cross_entropy(const at::Tensor& x_ND, const at::Tensor& weight_VD,
                                 const at::Tensor& targets_N, const Group& vocabulary) {
  return chunked_cross_entropy(x_ND, weight_VD, targets_N,
                               x_ND.is_cuda() ? kLogitsAtOnceOnACard : kLogitsAtOnce, vocabulary);
}

at::Tensor chunked_cross_entropy(const at::Tensor& x_ND, const at::Tensor& weight_VD,
                                 const at::Tensor& targets_N, int64_t logits_at_once,
                                 const Group& vocabulary) {
  const bool graph = at::GradMode::is_enabled();
  const at::Tensor own_N =
      vocabulary.is_one() ? targets_N : targets_N - vocabulary.rank() * weight_VD.size(0);
  return ChunkedCrossEntropy::apply(x_ND, weight_VD, own_N, logits_at_once,
                                    graph && x_ND.requires_grad(),
                                    graph && weight_VD.requires_grad(), vocabulary);
}

}  // namespace trestle
