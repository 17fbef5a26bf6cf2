// What a checkpoint of a run is written from: its tensors and numbers as they are behind a step,
// or, for a writer in a thread of its own, copies of them. Called by the trainer and its saver.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <vector>

#include "kernels/optimizer.h"
#include "megatron/iteration.h"
#include "megatron/shard.h"
#include "parallel/group.h"
#include "recipes/config.h"
#include "run/checkpoint.h"
#include "run/huggingface_folder.h"
#include "run/identity.h"

namespace trestle {

class Ministral3;

struct Snapshot {
  MegatronOutput output;
  /// What this rank writes of the trained tensors (adapters only in a LoRA or DoRA run), AdamW's
  /// state and torch's random state, on a card also the card's.
  std::vector<HeldTensor> tensors = {};
  RunProgress progress;
  RunIdentity identity;
};

/// `copied`: tensors are copies in this machine's memory, and the snapshot shares nothing with the
/// run; otherwise they are the run's own, and the snapshot is good until its next step. Without
/// checkpoint.save_optim and save_rng it has no optimizer, schedule or random state. `folder`: the
/// export that write_checkpoint will be given.
Snapshot take_snapshot(const TrainConfig& config, const Ministral3& model, const AdamW& optimizer,
                       const RunProgress& progress, const RunIdentity& identity,
                       const OpenCheckpoint& base, const std::optional<HuggingFaceFolder>& folder,
                       bool copied, const ShardPlan& plan = {});

/// Writes checkpoint.save/iter_%07d and, with `folder`, the export in it; an iteration that is
/// there already is replaced whole. The trackers follow when all is there. By all ranks of `ranks`
/// at once, each with its snapshot of the same step; throws on all of them what it throws on one.
void write_checkpoint(const Snapshot& snapshot, const std::optional<HuggingFaceFolder>& folder,
                      const Group& ranks = {});

}  // namespace trestle
