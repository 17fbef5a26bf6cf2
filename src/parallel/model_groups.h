// The groups over which a model's own layers communicate. Part of every module's Build.
#pragma once

#include "parallel/group.h"

namespace trestle {

struct ModelGroups {
  /// Ranks that hold slices of the same weights, as split_of() cuts them.
  Group tensor;
  /// Ranks that hold pieces of the same rows; K and V go round among them.
  Group context;
  /// Between the products a rank holds its share of the tokens only (Korthikanti et al. 2022).
  bool sequence_parallel = false;
};

}  // namespace trestle
