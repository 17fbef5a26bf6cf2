// The product with a weight that is held in another form than its values', and its gradient.
// Included by those forms.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "kernels/matrix_product.h"
#include "model/tiles.h"

namespace trestle {

/// fn(range) for ranges of at most `most` indices that cover `count`.
template <class Function>
void for_ranges(int64_t count, int64_t most, const Function& fn) {
  for (int64_t first = 0; first < count; first += most) {
    fn(IndexRange{first, std::min(most, count - first)});
  }
}

inline int64_t tile_bytes(const at::Tensor& x) {
  return x.is_cuda() ? kTileBytesOnACard : kTileBytes;
}

/// x W^T: [T, columns] -> [T, rows], in x's dtype; W itself gets no gradient. `Weight` has rows(),
/// columns(), dense(rows, columns, dtype), parts(), and is made from parts() again.
template <class Weight>
class TiledProduct : public torch::autograd::Function<TiledProduct<Weight>> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const Weight& weight) {
    WeightParts parts = weight.parts();
    context->save_for_backward(std::move(parts.tensors));
    context->saved_data["size"] = parts.size;
    const IndexRange all{0, weight.columns()};
    const int64_t most = std::max<int64_t>(
        1, tile_bytes(x) / std::max<int64_t>(1, weight.columns() * x.element_size()));
    if (most >= weight.rows()) return times_transposed(x, weight.dense(x.scalar_type()));
    at::Tensor y = at::empty({x.size(0), weight.rows()}, x.options());
    for_ranges(weight.rows(), most, [&](IndexRange rows) {
      y.narrow(1, rows.first, rows.count)
          .copy_(times_transposed(x, weight.dense(rows, all, x.scalar_type())));
    });
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& up) {
    const Weight weight(
        WeightParts{context->get_saved_variables(), context->saved_data["size"].toInt()});
    const at::Tensor& up_TO = up.front();
    const IndexRange all{0, weight.rows()};
    // Tiles of columns, so that every sum over the rows is made in one product.
    const int64_t blocks = tile_bytes(up_TO) / (kTileColumns * up_TO.element_size()) /
                           std::max<int64_t>(1, weight.rows());
    if (blocks * kTileColumns >= weight.columns()) {
      return {times(up_TO, weight.dense(up_TO.scalar_type())), at::Tensor()};
    }
    at::Tensor down = at::empty({up_TO.size(0), weight.columns()}, up_TO.options());
    for_ranges(weight.columns(), std::max<int64_t>(1, blocks) * kTileColumns,
               [&](IndexRange columns) {
                 down.narrow(1, columns.first, columns.count)
                     .copy_(times(up_TO, weight.dense(all, columns, up_TO.scalar_type())));
               });
    return {down, at::Tensor()};
  }
};

}  // namespace trestle
