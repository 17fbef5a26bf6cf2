#include "planner/memory.h"

#include <algorithm>

#include "parallel/schedule.h"
#include "planner/activations.h"

namespace trestle {

namespace {

constexpr const char* kEmbedding = "language_model.embedding.word_embeddings.weight";

// What a stage holds whatever the moment.
struct Held {
  int64_t weights = 0, gradients = 0, optimizer = 0;
  /// page_rest of weights and optimizer, of gradients, and of these in fp32.
  int64_t rest = 0, gradient_rest = 0, wide_rest = 0;
  /// Elements that train, in all and in the largest group of the optimizer.
  int64_t trained = 0, group = 0;
  /// Gradient bytes of the head, of the embedding, and of the decoder's layers.
  int64_t head = 0, embedding = 0, layers = 0;
};

bool is_on(const PlannedWeight& weight, const PlannedRun& run, const Topology& topology,
           int64_t stage) {
  if (stage_of(weight, topology, run.shape.model().text.num_layers) == stage) return true;
  // A tied embedding is the head too.
  return run.shape.model().text.tie_word_embeddings && stage == topology.pipeline - 1 &&
         weight.name == kEmbedding;
}

bool is_head(const PlannedWeight& weight, const PlannedRun& run) {
  return weight.name == (run.shape.model().text.tie_word_embeddings
                             ? kEmbedding
                             : "language_model.output_layer.weight");
}

Held held_of(const PlannedRun& run, const Topology& topology, int64_t stage) {
  Held held;
  const int64_t e = run.element_bytes();
  int64_t decayed = 0, plain = 0;
  for (const PlannedWeight& weight : run.shape.weights()) {
    if (!is_on(weight, run, topology, stage)) continue;
    const int64_t count = share_of_rank(weight, weight.count, topology.tensor);
    held.weights += share_of_rank(weight, weight.bytes, topology.tensor);
    // linear/linear.h: sums of squares of the base's rows in fp64 and the norms in fp32.
    if (weight.name.ends_with(".weight_magnitude")) held.weights += count * (8 + kFloatBytes);
    held.rest += page_rest(share_of_rank(weight, weight.bytes, topology.tensor));
    if (!weight.trains) continue;
    const int64_t ranks = run.distributed_optimizer ? topology.data : 1;
    held.rest += (e < kFloatBytes ? 3 : 2) * page_rest(count / ranks * kFloatBytes);
    held.gradient_rest += page_rest(count * e);
    held.wide_rest += page_rest(count * kFloatBytes);
    held.trained += count;
    (weight.decayed ? decayed : plain) += count;
    if (is_head(weight, run) && stage == topology.pipeline - 1) held.head = count * e;
    if (weight.name == kEmbedding && stage == 0) held.embedding = count * e;
    if (weight.name.starts_with("language_model.decoder.")) held.layers += count * e;
  }
  held.gradients = held.trained * e;
  held.group = std::max(decayed, plain);
  const int64_t ranks = run.distributed_optimizer ? topology.data : 1;
  // kernels/optimizer.cpp: a parameter in fp32 is its own master.
  held.optimizer =
      divided_up(held.trained, ranks) * (2 * kFloatBytes + (e < kFloatBytes ? kFloatBytes : 0));
  return held;
}

int64_t communication_of(const PlannedRun& run, const Topology& topology, const Held& held) {
  const TextConfig& text = run.shape.model().text;
  const int64_t row = tokens_of_rank(run, topology) * text.hidden_size * run.element_bytes();
  int64_t bytes = 0;
  if (topology.tensor > 1) bytes += 2 * row;
  if (topology.pipeline > 1)
    bytes += 2 * divided_up(row, topology.sequence_parallel ? topology.tensor : 1);
  if (topology.context > 1) {
    bytes += 2 * run.tokens_of_micro_batch() * text.num_query_groups * text.head_dim /
             topology.tensor * run.element_bytes();
  }
  if (topology.data * topology.context > 1) {
    bytes += 2 * std::min(held.trained, kBucketElements) * kFloatBytes;
  }
  return bytes;
}

// On the CPU all samples of a step are there from its begin: ids, labels, pixels in fp32.
int64_t samples_of(const PlannedRun& run, const Topology& topology) {
  if (run.on_card) return 0;
  const int64_t samples = divided_up(run.config.train.global_batch_size, topology.data);
  const SampleShape& one = run.sample;
  const int64_t channels = run.shape.model().vision ? run.shape.model().vision->num_channels : 0;
  return samples *
         (one.tokens * 3 * 8 + one.pictures * channels * one.height * one.width * kFloatBytes);
}

struct StageLayers {
  LayersKept text;
  /// Of a layer whose activations are kept.
  int64_t one = 0;
  /// page_rest of what is kept of one micro-batch.
  int64_t rest = 0;
  /// Kept of all micro-batches on their way.
  int64_t in_flight = 0;
};

StageLayers layers_of(const PlannedRun& run, const Topology& topology, int64_t stage) {
  StageLayers all;
  const int64_t layers = run.shape.model().text.num_layers;
  for (int64_t chunk = stage; chunk < topology.chunks(); chunk += topology.pipeline) {
    const LayersKept kept =
        text_layers_bytes(run, topology, layers_of_chunk(topology, layers, chunk));
    all.text.kept += kept.kept;
    all.rest += page_rests(run, topology, layers_of_chunk(topology, layers, chunk));
    all.text.remade = std::max(all.text.remade, kept.remade);
  }
  if (all.text.kept > 0) all.one = text_layer_bytes(run, topology, true);
  const int64_t chunks = most_in_flight(topology, stage, run.micro_batches(topology));
  all.in_flight = divided_up(all.text.kept * chunks, topology.virtual_pipeline) +
                  divided_up(chunks, topology.virtual_pipeline) * context_bytes(run, topology);
  return all;
}

}  // namespace

std::vector<MemoryPlan> moments_of(const PlannedRun& run, const Topology& topology, int64_t stage) {
  const Held held = held_of(run, topology, stage);
  const StageLayers layers = layers_of(run, topology, stage);
  const bool first = stage == 0, last = stage == topology.pipeline - 1;
  const int64_t in_flight = most_in_flight(topology, stage, run.micro_batches(topology));
  const LayersKept vision = first ? vision_bytes(run, topology) : LayersKept{};
  const int64_t vision_kept = vision.kept * divided_up(in_flight, topology.virtual_pipeline);
  const int64_t head = last ? head_bytes(run, topology) : 0;
  const int64_t passing = layer_backward_bytes(run, topology) + layers.text.remade;
  // Gradients of the micro-batches before are there; a new one is added to each at a time.
  const bool again = run.micro_batches(topology) > 1;
  const MemoryPlan always{.weights = held.weights,
                          .gradients = again ? held.gradients : 0,
                          .optimizer = held.optimizer,
                          .communication = communication_of(run, topology, held),
                          .samples = samples_of(run, topology),
                          .process = run.on_card ? 0 : kProgramBytes + held.rest,
                          .stage = stage,
                          .moment = {}};
  std::vector<MemoryPlan> moments;
  const int64_t rounds = divided_up(in_flight, topology.virtual_pipeline);
  const auto add = [&](const char* moment, int64_t activations, int64_t gradients, int64_t logits) {
    MemoryPlan plan = always;
    plan.moment = moment;
    plan.activations = activations;
    plan.gradients += gradients;
    plan.logits = logits;
    if (!run.on_card) {
      if (plan.gradients > 0) plan.process += held.gradient_rest;
      if (activations >= layers.in_flight && activations > 0) plan.process += layers.rest * rounds;
    }
    moments.push_back(plan);
  };
  const int64_t all = layers.in_flight + vision_kept + head;
  // Of a head that is the embedding the gradient waits for the embedding's (torch's engine adds
  // what a leaf gets before it gives it).
  const bool waits =
      held.head > 0 && held.embedding > 0 && run.shape.model().text.tie_word_embeddings;
  const int64_t head_gradient = again && !waits ? 0 : held.head;
  if (last) {
    const int64_t logits = logits_bytes(run, topology);
    add("the loss", all, 0, logits);
    if (held.head > 0) add("the head's backward", all, held.head, logits);
  }
  add("backward's begin", layers.in_flight + vision_kept + passing, head_gradient, 0);
  // The layers that go backward last are the first ones.
  const int64_t one = layers.text.remade > 0 ? 0 : layers.one;
  add("backward's end", vision_kept + one + passing, head_gradient + (again ? 0 : held.layers), 0);
  if (held.embedding > 0) {
    add("the embedding's backward", vision_kept,
        head_gradient + held.embedding + (again ? 0 : held.layers), 0);
  }
  if (vision.kept > 0) {
    add("the vision tower's backward",
        vision_kept + vision_backward_bytes(run, topology) + vision.remade,
        again ? 0 : held.gradients, 0);
  }
  // kernels/optimizer.cpp: without a kernel gradients below fp32 are widened, a group at a time.
  const bool widens = !run.on_card && run.element_bytes() < kFloatBytes;
  add("update", 0, (again ? 0 : held.gradients) + (widens ? held.group * kFloatBytes : 0), 0);
  if (widens) moments.back().process += held.wide_rest;
  return moments;
}

MemoryPlan memory_of(const PlannedRun& run, const Topology& topology) {
  MemoryPlan most;
  for (int64_t stage = 0; stage < topology.pipeline; ++stage) {
    for (const MemoryPlan& plan : moments_of(run, topology, stage)) {
      if (most.moment.empty() || plan.total() > most.total()) most = plan;
    }
  }
  return most;
}

}  // namespace trestle
