#include "planner/memory.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "parallel/buckets.h"
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
  /// Elements that train, in all; and of those that no rank shares: theirs, and in the largest
  /// group of the optimizer.
  int64_t trained = 0, alone = 0, group = 0;
  /// What ranks exchange (train/gradient_sync.h): buffers that stay, and at most at once.
  int64_t buffers = 0, passing = 0;
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

bool is_distributed(const PlannedRun& run) {
  return run.config.optimizer.use_distributed_optimizer;
}

// Of two neighbouring buckets, elements at most.
int64_t largest_two(const std::vector<int64_t>& elements) {
  const std::vector<size_t> starts = bucket_starts(elements);
  int64_t largest = 0, before = 0;
  for (size_t i = 0; i < starts.size(); ++i) {
    const size_t end = i + 1 < starts.size() ? starts[i + 1] : elements.size();
    int64_t bucket = 0;
    for (size_t k = starts[i]; k < end; ++k) bucket += elements[k];
    largest = std::max(largest, before + bucket);
    before = bucket;
  }
  return largest;
}

Held held_of(const PlannedRun& run, const Topology& topology, int64_t stage) {
  Held held;
  const int64_t e = run.element_bytes();
  int64_t decayed = 0, plain = 0, updated = 0, own = 0, shared = 0;
  const int64_t same = topology.data * topology.context;
  std::array<std::vector<int64_t>, 2> exchanged;  // elements, as a backward pass comes by them
  for (const PlannedWeight& weight : run.shape.weights()) {
    if (!is_on(weight, run, topology, stage)) continue;
    const int64_t count = share_of_rank(weight, weight.count, topology.tensor);
    const int64_t bytes = share_of_rank(weight, weight.bytes, topology.tensor);
    const bool is_shared = same > 1 && is_shared_out(weight, run);
    held.weights += is_shared ? divided_up(bytes, same) : bytes;
    if (is_shared) shared += bytes;
    // linear/linear.h: sums of squares of the base's rows in fp64 and the norms in fp32.
    if (weight.name.ends_with(".weight_magnitude")) held.weights += count * (8 + kFloatBytes);
    held.rest += page_rest(share_of_rank(weight, weight.bytes, topology.tensor));
    if (!weight.trains) continue;
    const int64_t ranks = ranks_that_sum(weight, topology);
    const int64_t share = divided_up(count, is_distributed(run) ? ranks : 1);
    updated += share;
    held.rest += (e < kFloatBytes ? 3 : 2) * page_rest(share * kFloatBytes);
    held.gradient_rest += page_rest(count * e);
    held.trained += count;
    if (ranks > 1) {
      own += share;
      auto& kind = exchanged[weight.split == Split::kReplicated && topology.tensor > 1 ? 1 : 0];
      kind.insert(kind.begin(), count);
    } else {
      held.wide_rest += page_rest(count * kFloatBytes);
      held.alone += count;
      (weight.decayed ? decayed : plain) += count;
    }
    if (is_head(weight, run) && stage == topology.pipeline - 1) held.head = count * e;
    if (weight.name == kEmbedding && stage == 0) held.embedding = count * e;
    if (weight.name.starts_with("language_model.decoder.")) held.layers += count * e;
  }
  held.gradients = held.trained * e;
  held.group = std::max(decayed, plain);
  // kernels/optimizer.cpp: a parameter in fp32 is its own master.
  held.optimizer = updated * (2 * kFloatBytes + (e < kFloatBytes ? kFloatBytes : 0));
  // Distributed, two buckets are on their way at a time, as sums in fp32 and as weights, and the
  // sums of this rank's own elements stay; else all sums do.
  int64_t two = 0, sent = 0;
  for (const std::vector<int64_t>& kind : exchanged) {
    sent += std::accumulate(kind.begin(), kind.end(), int64_t{0});
    two = std::max(two, largest_two(kind));
  }
  held.buffers = is_distributed(run) ? own * kFloatBytes + two * kFloatBytes : sent * kFloatBytes;
  held.passing = two * e;
  // Of what is shared out one layer is worked with and the next one on its way.
  held.buffers += 2 * divided_up(shared * topology.pipeline, run.shape.model().text.num_layers);
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
  return bytes + held.buffers;
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
                          .gradients = 0,
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
    plan.gradients = gradients;
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
  const int64_t before = again ? held.gradients : 0;
  // In the last pass a gradient goes as soon as its bucket is full, but not with a tied embedding
  // on two stages, which is whole behind all passes alone.
  const bool sends = held.alone < held.trained && !(topology.pipeline > 1 && waits);
  const int64_t unsent = held.alone * run.element_bytes() + std::min(held.gradients, held.passing);
  const auto by_then = [&](int64_t gradients) {
    return sends ? std::min(unsent, again ? held.gradients : gradients)
                 : (again ? held.gradients : gradients);
  };
  if (last) {
    const int64_t logits = logits_bytes(run, topology);
    add("the loss", all, before, logits);
    if (held.head > 0) add("the head's backward", all, before + held.head, logits);
  }
  add("backward's begin", layers.in_flight + vision_kept + passing, before + head_gradient, 0);
  // The layers that go backward last are the first ones.
  const int64_t one = layers.text.remade > 0 ? 0 : layers.one;
  add("backward's end", vision_kept + one + passing, head_gradient + by_then(held.layers), 0);
  if (held.embedding > 0) {
    add("the embedding's backward", vision_kept,
        head_gradient + held.embedding + by_then(held.layers), 0);
  }
  if (vision.kept > 0) {
    add("the vision tower's backward",
        vision_kept + vision_backward_bytes(run, topology) + vision.remade, by_then(held.gradients),
        0);
  }
  // kernels/optimizer.cpp: without a kernel gradients below fp32 are widened, a group at a time.
  const bool widens = !run.on_card && run.element_bytes() < kFloatBytes;
  add("update", 0, held.alone * run.element_bytes() + (widens ? held.group * kFloatBytes : 0), 0);
  if (widens) moments.back().process += held.wide_rest;
  if (held.alone < held.trained) moments.back().communication += held.passing;
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
