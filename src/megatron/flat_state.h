// The optimizer's state as Megatron's `dp_reshardable` form has it: flat buckets of the distributed
// data-parallel buffers, in which parameters lie one behind the other. Called by SavedRun.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "megatron/checkpoint.h"
#include "megatron/shard.h"

namespace trestle {

/// Whether a key of MegatronCheckpoint::state() is such a bucket.
bool is_flat_state(std::string_view key);

class FlatState {
 public:
  /// `trained`: names of all parameters that the buckets hold, as the checkpoint spells them.
  /// Buckets say no names; the places follow from megatron-core's order (param_and_grad_buffer.py:
  /// modules backwards, each start at a multiple of 64) and must fit the buckets' sizes, and the
  /// masters there must round to the checkpoint's weights. Throws UserError where they do not, or
  /// where several model-parallel ranks had buckets of their own.
  FlatState(const MegatronCheckpoint& checkpoint, std::vector<std::string> trained);

  /// The elements of a part of `optimizer.state.{param,exp_avg,exp_avg_sq}.NAME`, one axis, fp32.
  at::Tensor read(const Shard& shard) const;

 private:
  struct Place {
    std::string bucket;  // its key but for the kind of state
    int64_t first = 0;
  };
  void require_masters() const;

  const MegatronCheckpoint& checkpoint_;
  std::map<std::string, Place> places_;
};

}  // namespace trestle
