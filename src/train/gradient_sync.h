// Gradients of all ranks summed in fp32 buckets, which are sent while the last backward pass of a
// step still runs; and, with a distributed optimizer, who updates what. Called by the trainer.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/optimizer.h"
#include "parallel/grid.h"

namespace trestle {

/// A parameter that every tensor rank has whole gets partial gradients there and is summed over
/// grid.whole_gradients; one that they share out, by split_of(), over grid.gradients. Where that is
/// a group of one nothing is sent and the gradient stays as it is.
///
/// Distributed (ZeRO stage 1, Rajbhandari et al. 2020, as megatron-core's DistributedOptimizer): of
/// each bucket every rank of its group gets the sums of, and updates, its 1/N of the elements,
/// whatever parameters they are of. Gradients are reduce-scattered, updated weights gathered, two
/// buckets at a time.
class GradientSync {
 public:
  /// `parameters`: those that train, on `device`, dense; a stage may have none. All ranks of a
  /// stage make it with the same ones, which must not move in memory: parts() are views of them.
  GradientSync(const AdamW::NamedTensors& parameters, const Grid& grid, at::Device device,
               bool distributed);
  ~GradientSync();
  GradientSync(const GradientSync&) = delete;
  GradientSync& operator=(const GradientSync&) = delete;

  /// What this rank's optimizer updates, in the model's order.
  const std::vector<ParameterPart>& parts() const { return parts_; }
  /// The next backward pass is the step's last: a bucket is sent when its gradients are there.
  /// Where it is not called sum() sends all of them.
  void begin();
  /// The gradients of parts() become the sums over all ranks, fp32 where ranks were summed, a rank
  /// without a gradient counting as zeros. Where no rank has one there is none.
  void sum();
  /// The 2-norm of all gradients of the model, which are summed, each counted once: fp32 scalar
  /// where they are.
  at::Tensor norm() const;
  /// Behind an update of parts(): their elements into the parameters of every rank.
  void share_updates();

 private:
  struct Hook;
  /// Neighbours that are sent together, in the order in which a backward pass comes by them.
  struct Bucket {
    std::vector<size_t> members;  // of parameters_
    Group group;
    int64_t elements = 0;  // a multiple of the group's size
    /// fp32 [elements], one member after another: the sums, or, distributed, of two buckets in
    /// turn what is on its way.
    at::Tensor flat;
    at::Tensor own_gradients;  // fp32 [elements / size]; distributed alone
    int64_t missing = 0;       // members whose gradient is not there
    bool is_sent = false;
    Pending pending;
  };
  /// A bucket's weights on their way.
  struct Gathering {
    at::Tensor own, all;
    Pending pending;
  };
  struct ParameterPlace {
    std::optional<size_t> bucket;
    int64_t at = 0;  // among its elements
  };
  /// The elements of a parameter that are this rank's of its bucket.
  struct OwnRun {
    int64_t first, count;  // of the parameter; none where `count` is 0
    int64_t at;            // among the rank's own of the bucket
  };
  /// Where parts_[i] lies.
  struct PartPlace {
    size_t parameter;
    int64_t at;  // among the bucket's sums that this rank has
  };

  void add_buckets(const std::vector<size_t>& members, const Group& group);
  void share_out();
  void gradient_is_there(size_t parameter);
  void send(size_t bucket);
  void fill(Bucket& bucket);
  void hand_out(const std::vector<int64_t>& has);
  OwnRun own_run(const Bucket& bucket, size_t parameter) const;
  Gathering gather(const Bucket& bucket) const;

  AdamW::NamedTensors parameters_;
  at::Device device_;
  bool distributed_;
  Group host_;
  Group sharing_;              // over which norm() sums
  std::vector<bool> counted_;  // there, by parameter
  std::vector<Bucket> buckets_;
  std::vector<ParameterPlace> place_of_;  // by parameter
  std::vector<ParameterPart> parts_;
  std::vector<PartPlace> places_;
  std::array<at::Tensor, 2> sending_;  // fp32: for distributed buckets in turn
  std::vector<int64_t> has_;           // by parameter: this rank had a gradient in the step
  bool is_last_pass_ = false;
  size_t next_ = 0;  // bucket to be sent
};

}  // namespace trestle
