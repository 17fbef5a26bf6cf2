#include "model/embedding.h"

#include <ATen/ATen.h>

#include "parallel/collectives.h"

namespace trestle {

at::Tensor vocabulary_embedding(const at::Tensor& weight_VD, const at::Tensor& ids_T,
                                const Group& group) {
  if (group.is_one()) return at::embedding(weight_VD, ids_T);
  const int64_t rows = weight_VD.size(0);
  const at::Tensor places = ids_T - group.rank() * rows;
  const at::Tensor elsewhere = places.lt(0).logical_or_(places.ge(rows));
  // Rows of others' ids are zeros in the sum, and give no gradient.
  const at::Tensor x_TD = at::embedding(weight_VD, places.masked_fill(elsewhere, 0))
                              .masked_fill(elsewhere.unsqueeze(1), 0);
  return reduce_from(x_TD, group);
}

}  // namespace trestle
