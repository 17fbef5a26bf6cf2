// A step's micro-batches through the stages of a pipeline: activations to the next stage, their
// gradients back, in the order of parallel/schedule.h. Called by the trainer; the model knows
// nothing of it.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <vector>

#include "metrics/flops.h"
#include "model/context_share.h"
#include "parallel/grid.h"
#include "parallel/schedule.h"

namespace trestle {

class Ministral3;

/// Samples that share a forward, as all ranks of a model hold them whole. Pictures, or their
/// features, are read on the first stage alone, but whether there are any all must know.
struct PipelineBatch {
  const ModelInput* input;
  /// int64 [T], -100 where there is no target. Without any there is no backward pass.
  const at::Tensor* labels_T;
};

/// One rank's part of it: its stage, or of one stage the whole model, whose passes are then what
/// they are without a pipeline.
class Pipeline {
 public:
  /// The model is grid's stage of one, and what trains in it is settled; it must live as long.
  /// All stages make it at once.
  Pipeline(const Ministral3& model, const Grid& grid);

  /// Micro-batch i, called once for each, as soon as it is needed.
  using Batches = std::function<PipelineBatch(int64_t)>;
  /// Adds to the parameters the gradients of the sum of all losses (loss_sum) over `divisor`.
  /// Returns each micro-batch's share of that, fp32 [micro_batches], the same on all stages and
  /// context ranks. `before_last` is called before this rank's last backward pass. Throws LostRank
  /// where another stage is gone.
  at::Tensor train(int64_t micro_batches, const Batches& batches, double divisor,
                   const std::function<void()>& before_last = {});
  /// The same without gradients.
  at::Tensor evaluate(int64_t micro_batches, const Batches& batches);

  /// Whether this stage's embedding is the head of another too, or the other way round, and learns.
  bool has_tied_embedding() const;
  /// The gradients of that one: those of first and last stage, summed. Behind train(), and before
  /// they are summed over other ranks.
  void sum_tied_embeddings() const;

  /// For ModelFlops.
  GradientInflow inflow() const;

 private:
  using Pass = PipelinePass;
  /// What a backward pass needs of its forward pass.
  struct Kept {
    at::Tensor input;              // what was received; undefined of the first chunk
    torch::autograd::Edge output;  // the tensor itself is not kept
  };
  /// A micro-batch as this rank takes it.
  struct Share {
    RankBatch batch;
    bool learns, has_pictures;
  };
  struct Incoming {
    at::Tensor x;
    Pending arrival;
  };
  struct Outgoing {
    int64_t stage;
    /// Of the pass that takes it, among those of its stage.
    size_t taken_at;
    Pending sent;
  };
  /// Of a call of train() or evaluate().
  struct Run {
    const Batches& batches;
    double divisor;
    bool trains;
    std::function<void()> before_last = {};
    std::vector<std::vector<Pass>> passes = {};  // of every stage
    std::map<int64_t, Share> shares = {};
    std::map<std::pair<int64_t, int64_t>, Kept> kept = {};
    std::map<Pass, Incoming> incoming = {};
    std::list<Outgoing> outgoing = {};
    int64_t micro_batches = 0;  // of this rank; the schedule may have more, for other data ranks
    std::vector<at::Tensor> losses = {};
  };

  at::Tensor run(Run run, int64_t micro_batches);
  const Share& share_of(Run& run, int64_t micro_batch) const;
  void make(Run& run, const Pass& pass) const;
  void forward(Run& run, const Pass& pass) const;
  void backward(Run& run, const Pass& pass) const;
  /// Where a pass gets something from another stage: begins to receive it.
  void expect(Run& run, const Pass& pass) const;
  at::Tensor receive(Run& run, const Pass& pass) const;
  void send(Run& run, const at::Tensor& x, const Pass& to) const;
  /// Lets go of what `stage` had taken by the time of its pass `done`.
  void release(Run& run, const Pass& done) const;
  /// The pass of another chunk whose result `pass` takes; none at both ends.
  std::optional<Pass> source_of(const Pass& pass) const;
  /// Whether gradients of a micro-batch go out of a chunk into the one before it.
  bool flows_out_of(int64_t chunk, const Share& share) const;
  int64_t stage_of(const Pass& pass) const { return pass.chunk % topology_.pipeline; }
  const LayerRun& layers_of(int64_t chunk) const;
  /// Layers that a pass goes through, in its order.
  std::vector<int64_t> visits_of(const Pass& pass) const;

  const Ministral3& model_;
  Grid grid_;
  Topology topology_;
  std::vector<LayerRun> chunks_;  // of this stage
  /// Of every chunk, whether something trains in it or before: without pictures, and with them.
  std::vector<std::array<bool, 2>> trains_;
};

}  // namespace trestle
