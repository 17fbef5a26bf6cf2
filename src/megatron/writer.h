// Writes a Megatron checkpoint that megatron-bridge, megatron-core and MegatronCheckpoint read: the
// model, and for training whatever optimizer tensors and plain objects go with it. Called by import
// and by the trainer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"
#include "megatron/iteration.h"
#include "parallel/plan.h"
#include "pytorch/torch_dist_writer.h"

namespace trestle {

/// Nothing loads before commit(): a new run appears whole, in an old one the trackers are moved on
/// when the iteration is there. Without commit() nothing is left. Throws UserError when the
/// iteration exists or the model does not divide by the ranks, MachineError when the disk refuses.
/// Wrong names and shapes are our bugs.
class MegatronWriter {
 public:
  /// `tensors` by the names of named_parameters(), and
  /// `optimizer.state.{param,exp_avg,exp_avg_sq}.` + name (fp32) of a training checkpoint
  /// (`fully_reshardable`; common_state.optimizer has the param_groups). Names starting with
  /// "trestle." are a run's own and mean nothing to Megatron.
  MegatronWriter(MegatronOutput output, const TensorList& tensors);

  /// Each tensor once, in any order; it is on its way to the disk when this returns.
  void write(const std::string& name, const at::Tensor& tensor);
  /// The next rows of a tensor; one tensor at a time.
  void write_rows(const std::string& name, std::span<const std::byte> rows);
  /// A plain object that MegatronCheckpoint::object(key) gives back.
  void add_object(const std::string& key, const Json& value);
  /// Everything is written, at the returned place (a new run or an iteration); loadable under its
  /// name only after commit().
  std::filesystem::path finish();
  /// finish() where it was not called, and the rename.
  void commit();

 private:
  /// What one rank writes of a tensor: rows [first, first + count), columns likewise. Tensors with
  /// more axes are never cut by columns.
  struct Box {
    int64_t rank;
    RowRange rows, columns;
  };
  struct Place {
    MegatronPlace at;
    TensorInfo info;         // of the layer's tensor
    std::vector<Box> boxes;  // in the order of their first rows
    int64_t next_row = 0;
  };
  std::vector<Box> boxes_of(const std::string& name, const TensorInfo& info) const;
  void write_part(const Place& place, const Box& box, RowRange rows, const std::byte* first_row);

  MegatronOutput output_;
  PipelinePlan pipeline_;
  MegatronIteration iteration_;
  TorchDistWriter data_;
  MegatronContents contents_;
  std::map<std::string, Place> pending_;
  std::map<std::string, int64_t> extra_states_;  // key -> rank
  bool finished_ = false;
};

}  // namespace trestle
