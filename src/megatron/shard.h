// What one rank of many holds of the model and of the optimizer's state, as parts of the whole
// tensors that a checkpoint has: it writes them as chunks, and reads them from chunks of any other
// topology. Called by the run's snapshot and by its resume.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "formats/tensor_source.h"
#include "parallel/grid.h"
#include "parallel/plan.h"
#include "parallel/share.h"

namespace trestle {

/// Elements [offset, offset + size) along every axis of a tensor.
struct TensorBox {
  std::vector<int64_t> offset, size;

  int64_t elements() const;
  bool operator==(const TensorBox&) const = default;
};

/// Elements [first, last) of `boxes`, which lie one behind the other and each in row-major order:
/// boxes again, since a run of elements is some last columns of a row, whole rows, and some first
/// columns.
std::vector<TensorBox> elements_of(const std::vector<TensorBox>& boxes, int64_t first,
                                   int64_t last);

/// Boxes of rows that lie one behind the other made one.
std::vector<TensorBox> joined(const std::vector<TensorBox>& boxes);

struct Shard {
  /// In the model, of one layer; or `optimizer.state.*.` before it.
  std::string name;
  /// The whole tensor of that name, the same on all ranks.
  TensorInfo whole;
  /// The shard's elements are theirs, one box behind the other.
  std::vector<TensorBox> boxes;

  int64_t elements() const;
};

/// A whole tensor as a shard.
Shard whole_shard(std::string name, TensorInfo info);

struct HeldTensor {
  Shard shard;
  /// Its elements in their order, in any shape.
  at::Tensor data;
  /// Along which axes ranks hold the same: tensor, or data and context.
  bool same_over_tensor = false, same_over_data = false;
  /// Another stage writes it.
  bool is_copy = false;
};

/// Where a rank's tensors lie in the whole model.
class ShardPlan {
 public:
  /// One rank with the whole model.
  ShardPlan() = default;
  /// `shares_state`: of the optimizer's state every rank that has the same weights keeps a part.
  ShardPlan(const Topology& topology, const Place& place, bool shares_state = false)
      : topology_(topology), place_(place), shares_state_(shares_state) {}

  const Topology& topology() const { return topology_; }
  const Place& place() const { return place_; }
  bool shares_state() const { return shares_state_; }

  /// The shard that this rank's parameter `name` of that shape is.
  Shard shard_of(const std::string& name, const TensorInfo& local) const;
  /// The parameter, or what the optimizer keeps of all of it, which every rank does that has the
  /// same rows of the model.
  HeldTensor held(const std::string& name, const at::Tensor& local) const;
  /// What a distributed optimizer keeps of elements [first, first + data.numel()) of the parameter,
  /// which has shape `local`: this rank alone of those that differ along data and context.
  HeldTensor held_part(const std::string& name, at::IntArrayRef local, int64_t first,
                       const at::Tensor& data) const;

  /// What this rank writes of what it holds: ranks that hold the same share it out by bytes, and an
  /// adapter's matrix that tensor ranks hold whole is cut as Megatron Bridge's files have it. Those
  /// that hold the same give it in the same order.
  std::vector<HeldTensor> to_write(std::vector<HeldTensor> held) const;

 private:
  /// Among the ranks that hold the same.
  RankOf turn_of(const HeldTensor& held) const;

  Topology topology_;
  Place place_;
  bool shares_state_ = false;
};

}  // namespace trestle
