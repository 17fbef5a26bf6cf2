#include "parallel/model_groups.h"

#include "parallel/collectives.h"

namespace trestle {

at::Tensor ModelGroups::enter(const at::Tensor& x_TD, bool spread) const {
  return spread ? gather_from(x_TD, tensor) : copy_to(x_TD, tensor);
}

at::Tensor ModelGroups::leave(const at::Tensor& x_TD, bool spread) const {
  return spread ? scatter_to(x_TD, tensor) : reduce_from(x_TD, tensor);
}

at::Tensor ModelGroups::spread(const at::Tensor& x_TD, bool spread) const {
  return spread ? slice_to(x_TD, tensor) : x_TD;
}

}  // namespace trestle
