// What an adapter of one projection is to be. Called by whoever attaches adapters: peft.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trestle {

/// What an adapter is made of.
struct AdapterSpec {
  struct Pair {
    /// The part of the fused projection that it adapts by itself (PEFT's form); empty for the whole
    /// projection (Megatron's form), and then there is no second pair.
    std::string part;
    int64_t rank = 0;
    double alpha = 0;
  };
  std::vector<Pair> pairs;
  double dropout = 0;
  bool dora = false;
};

}  // namespace trestle
