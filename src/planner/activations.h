// Bytes that autograd keeps of one micro-batch between its forward and its backward: term by term
// what the nodes of src/model and src/kernels save. Called by memory_of.
#pragma once

#include <cstdint>

#include "planner/run.h"

namespace trestle {

/// Of one decoder layer on one rank, its input included and its output not. `flows`: gradients
/// reach that input.
int64_t text_layer_bytes(const PlannedRun& run, const Topology& topology, bool flows);
/// Of decoder layers [first, last) as model.recompute_* have it: what is kept of all of them, and
/// what the backward makes again at a time.
struct LayersKept {
  int64_t kept = 0, remade = 0;
};
LayersKept text_layers_bytes(const PlannedRun& run, const Topology& topology, LayerRun layers);
/// Of vision tower and projector, for the pictures of a micro-batch that this rank runs; 0 where
/// nothing in them trains.
LayersKept vision_bytes(const PlannedRun& run, const Topology& topology);
/// What all layers share of a micro-batch.
int64_t context_bytes(const PlannedRun& run, const Topology& topology);
/// Of the final norm and the loss.
int64_t head_bytes(const PlannedRun& run, const Topology& topology);

/// What passes while one layer goes backward, beside what is kept: the largest of its parts, that
/// of the feed-forward.
int64_t layer_backward_bytes(const PlannedRun& run, const Topology& topology);
/// The same of the vision tower.
int64_t vision_backward_bytes(const PlannedRun& run, const Topology& topology);
/// Logits that exist at a time (kLogitsAtOnce) with all that is made of them.
int64_t logits_bytes(const PlannedRun& run, const Topology& topology);

/// page_rest of what decoder layers [first, last) keep.
int64_t page_rests(const PlannedRun& run, const Topology& topology, LayerRun layers);

/// Tokens of a micro-batch that this rank's layers see.
int64_t tokens_of_rank(const PlannedRun& run, const Topology& topology);
/// Targets of a micro-batch on this rank.
int64_t targets_of_rank(const PlannedRun& run, const Topology& topology);

}  // namespace trestle
