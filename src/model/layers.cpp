#include "model/layers.h"

namespace trestle {

RmsNorm::RmsNorm(int64_t size, double eps, const Build& build) : eps_(eps) {
  weight = register_parameter("weight", build.empty({size}));
}

}  // namespace trestle
