#include "planner/step.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "planner/activations.h"

namespace trestle {

namespace {

double as_double(int64_t value) { return static_cast<double>(value); }

// FLOPs of one micro-batch, forward and backward with what is computed again.
struct Operations {
  double layers = 0, head = 0, vision = 0;
  /// Of the layers, what the backward makes again.
  double again = 0;
};

ModelInput input_of(const PlannedRun& run, int64_t length) {
  const int64_t samples = run.samples_of_micro_batch();
  const int64_t sequences = samples * run.sample.tokens / length;
  const auto meta = at::TensorOptions().device(at::kMeta);
  ModelInput input;
  input.packing = Packing(std::vector<int64_t>(static_cast<size_t>(sequences), length));
  const SampleShape& one = run.sample;
  for (int64_t i = 0; i < samples * one.pictures; ++i) {
    input.images_CHW.push_back(at::empty({3, one.height, one.width}, meta));
  }
  return input;
}

double again_of(const PlannedRun& run, const ModelInput& input) {
  const Recompute recompute = run.config.recompute();
  const ModelFlops& forward = run.shape.forward_flops();
  const int64_t layers = run.shape.model().text.num_layers;
  const double whole = forward.of(input, {}, 0);
  if (recompute.granularity == Recompute::Granularity::kFull) {
    const bool uniform = recompute.method == Recompute::Method::kUniform;
    const int64_t count = uniform ? layers : std::min(recompute.num_layers, layers);
    return whole * as_double(count) / as_double(layers);
  }
  if (recompute.granularity != Recompute::Granularity::kSelective) return 0;
  // Sequences of one token have no attention worth the name.
  return whole - forward.of(input_of(run, 1), {}, 0);
}

Operations operations_of(const PlannedRun& run) {
  const ModelInput input = input_of(run, run.sample.tokens);
  const int64_t targets = run.samples_of_micro_batch() * run.sample.targets;
  const ModelFlops& training = run.shape.training_flops();
  Operations all;
  all.layers = training.of(input, {}, 0);
  all.head = training.of(input, {}, targets) - all.layers;
  all.vision = training.of(input, input.images_CHW, 0) - all.layers;
  all.again = again_of(run, input);
  return all;
}

// Elements of a stage that train, on one tensor rank; those of them that all tensor ranks have.
struct Trained {
  double all = 0, replicated = 0;
  /// Bytes of frozen layers that ranks share out.
  double shared = 0;
};

Trained trained_of(const PlannedRun& run, const Topology& topology, int64_t stage) {
  Trained trained;
  for (const PlannedWeight& weight : run.shape.weights()) {
    if (stage_of(weight, topology, run.shape.model().text.num_layers) != stage) continue;
    if (is_shared_out(weight, run)) {
      trained.shared += as_double(share_of_rank(weight, weight.bytes, topology.tensor));
    }
    if (!weight.trains) continue;
    trained.all += as_double(share_of_rank(weight, weight.count, topology.tensor));
    if (weight.split == Split::kReplicated) trained.replicated += as_double(weight.count);
  }
  return trained;
}

// The rate of a group whose ranks lie within `span` neighbours (rank order tp-cp-dp-pp).
double rate_within(const Machine& machine, int64_t span) {
  return span <= machine.ranks_per_node ? machine.link.value : machine.network.value;
}

class StageStep {
 public:
  StageStep(const PlannedRun& run, const Topology& topology, const Machine& machine,
            const Operations& operations, int64_t stage)
      : run_(run),
        topology_(topology),
        machine_(machine),
        operations_(operations),
        stage_(stage),
        trained_(trained_of(run, topology, stage)) {
    const int64_t layers = run.shape.model().text.num_layers;
    for (int64_t chunk = stage; chunk < topology.chunks(); chunk += topology.pipeline) {
      layers_ += as_double(layers_of_chunk(topology, layers, chunk).size());
    }
    share_ = layers_ / as_double(layers);
  }

  // Seconds of one micro-batch.
  double compute() const {
    const double ranks = as_double(topology_.tensor * topology_.context);
    double flops = (operations_.layers + operations_.again) * share_ / ranks;
    if (is_last()) flops += operations_.head / ranks;
    // Pictures are shared out whole.
    const int64_t pictures = run_.samples_of_micro_batch() * run_.sample.pictures;
    if (is_first() && pictures > 0) {
      const int64_t most = (pictures + topology_.tensor - 1) / topology_.tensor;
      flops += operations_.vision * as_double(most) / as_double(pictures);
    }
    return flops / machine_.flops.value;
  }

  // Bytes of one micro-batch. Two all-reduces of [T, D] in a layer's forward and two in its
  // backward (Shoeybi et al. 2019, section 3), with sequence_parallel as many gathers and scatters
  // (Korthikanti et al. 2022, section 4.2.2), and the forward's again where layers are computed
  // again.
  double tensor_bytes() const {
    const double row = as_double(run_.shape.model().text.hidden_size * run_.element_bytes());
    const double stream = as_double(tokens_of_rank(run_, topology_)) * row;
    const double backward = trains_text() ? 2 : 0;
    double sums = layers_ * (2 + backward + 2 * again_share()) * stream;
    if (is_first()) sums += stream;  // the embedding's rows
    if (is_first())
      sums += as_double(run_.samples_of_micro_batch() *
                        picture_tokens(run_.sample, run_.shape.model())) *
              row;
    if (is_last()) {
      // The head's input's gradient; largest, sum and the target's logit of each row.
      const double targets = as_double(targets_of_rank(run_, topology_));
      sums += targets * ((trains_text() ? row : 0) + 3 * kFloatBytes);
    }
    return all_reduce_bytes(sums, topology_.tensor);
  }

  // Keys and values of a layer are gathered, their gradients scattered.
  double context_bytes() const {
    const TextConfig& text = run_.shape.model().text;
    const double both = as_double(2 * text.num_query_groups * text.head_dim / topology_.tensor *
                                  run_.tokens_of_micro_batch() * run_.element_bytes());
    const double times = 1 + again_share() + (trains_text() ? 1 : 0);
    return layers_ * times * gather_bytes(both, topology_.context);
  }

  // The stream to the next stage and its gradient to the one before, once a chunk.
  double pipeline_bytes() const {
    if (topology_.pipeline == 1) return 0;
    const int64_t parts = topology_.sequence_parallel ? topology_.tensor : 1;
    const double stream = as_double(tokens_of_rank(run_, topology_) *
                                    run_.shape.model().text.hidden_size * run_.element_bytes()) /
                          as_double(parts);
    return as_double(topology_.virtual_pipeline) * stream * (trains_text() ? 2 : 1);
  }

  // Bytes of a step: gradients in fp32 over data x context ranks, divided with a distributed
  // optimizer, whose weights are gathered again; replicated weights' over the tensor ranks too.
  double gradient_bytes() const {
    const int64_t ranks = topology_.data * topology_.context;
    const auto exchanged = [&](double elements, int64_t sharing) {
      return is_distributed()
                 ? gather_bytes(elements * kFloatBytes, sharing) +
                       gather_bytes(elements * as_double(run_.element_bytes()), sharing)
                 : all_reduce_bytes(elements * kFloatBytes, sharing);
    };
    // A layer is gathered for the forward and for the backward pass of each micro-batch.
    const double gathered =
        as_double(2 * run_.micro_batches(topology_)) * gather_bytes(trained_.shared, ranks);
    return exchanged(trained_.all - trained_.replicated, ranks) +
           exchanged(trained_.replicated, ranks * topology_.tensor) + embedding_bytes() + gathered;
  }

  // AdamW reads and writes master and moments, reads the gradient and writes the weight.
  double optimizer_seconds() const {
    const double ranks = as_double(topology_.data * topology_.context);
    const double share = is_distributed()
                             ? (trained_.all - trained_.replicated) / ranks +
                                   trained_.replicated / (ranks * as_double(topology_.tensor))
                             : trained_.all;
    const double each = 6 * kFloatBytes + 2 * as_double(run_.element_bytes());
    return share * each / machine_.bandwidth.value;
  }

 private:
  bool is_distributed() const { return run_.config.optimizer.use_distributed_optimizer; }
  bool is_first() const { return stage_ == 0; }
  bool is_last() const { return stage_ == topology_.pipeline - 1; }
  bool trains_text() const {
    return run_.shape.trains("language_model.") || run_.shape.vision_trains();
  }
  // Of the layers, those whose forward is made again.
  double again_share() const {
    const Recompute recompute = run_.config.recompute();
    if (recompute.granularity != Recompute::Granularity::kFull) return 0;
    if (recompute.method == Recompute::Method::kUniform) return 1;
    const int64_t layers = run_.shape.model().text.num_layers;
    return as_double(std::min(recompute.num_layers, layers)) / as_double(layers);
  }
  // A tied embedding has its gradient summed over first and last stage.
  double embedding_bytes() const {
    const TextConfig& text = run_.shape.model().text;
    const bool tied = text.tie_word_embeddings && topology_.pipeline > 1 &&
                      run_.shape.trains("language_model.embedding.");
    if (!tied || !(is_first() || is_last())) return 0;
    return all_reduce_bytes(
        as_double(text.vocab_size * text.hidden_size / topology_.tensor) * kFloatBytes, 2);
  }

  const PlannedRun& run_;
  const Topology& topology_;
  const Machine& machine_;
  const Operations& operations_;
  int64_t stage_;
  Trained trained_;
  double layers_ = 0, share_ = 0;
};

// Of both, what the forward takes.
double forward_share(const PlannedRun& run, const Operations& operations) {
  const ModelInput input = input_of(run, run.sample.tokens);
  const int64_t targets = run.samples_of_micro_batch() * run.sample.targets;
  const double forward = run.shape.forward_flops().of(input, input.images_CHW, targets);
  const double all = operations.layers + operations.again + operations.head + operations.vision;
  return std::min(1.0, forward / all);
}

double pipeline_rate(const Topology& topology, const Machine& machine) {
  return rate_within(machine, topology.world());
}

}  // namespace

std::vector<StageTime> stage_times(const PlannedRun& run, const Topology& topology,
                                   const Machine& machine) {
  const Operations operations = operations_of(run);
  const double forward = forward_share(run, operations);
  const double tensor_rate = rate_within(machine, topology.tensor);
  const double context_rate = rate_within(machine, topology.tensor * topology.context);
  std::vector<StageTime> times;
  for (int64_t stage = 0; stage < topology.pipeline; ++stage) {
    const StageStep one(run, topology, machine, operations, stage);
    const double seconds =
        one.compute() + one.tensor_bytes() / tensor_rate + one.context_bytes() / context_rate;
    times.push_back({seconds * forward, seconds * (1 - forward)});
  }
  return times;
}

double send_seconds(const PlannedRun& run, const Topology& topology, const Machine& machine) {
  const Operations operations = operations_of(run);
  const StageStep first(run, topology, machine, operations, 0);
  const double ways = run.shape.trains("language_model.") || run.shape.vision_trains() ? 2 : 1;
  return first.pipeline_bytes() / as_double(topology.virtual_pipeline) / ways /
         pipeline_rate(topology, machine);
}

double gather_bytes(double bytes, int64_t ranks) {
  return bytes * as_double(ranks - 1) / as_double(ranks);
}

double all_reduce_bytes(double bytes, int64_t ranks) { return 2 * gather_bytes(bytes, ranks); }

StepPlan step_of(const PlannedRun& run, const Topology& topology, const Machine& machine) {
  const Operations operations = operations_of(run);
  const int64_t spans[] = {topology.tensor, topology.tensor * topology.context,
                           topology.tensor * topology.context * topology.data};
  const double tensor_rate = rate_within(machine, spans[0]);
  const double context_rate = rate_within(machine, spans[1]);
  const double data_rate = rate_within(machine, spans[2]);
  StepPlan step;
  step.micro_batches = run.micro_batches(topology);
  const double forwards = as_double(step.micro_batches);
  double slowest = 0;  // seconds of a micro-batch
  for (int64_t stage = 0; stage < topology.pipeline; ++stage) {
    const StageStep one(run, topology, machine, operations, stage);
    StepTraffic& sent = step.traffic;
    sent.tensor = std::max(sent.tensor, forwards * one.tensor_bytes());
    sent.context = std::max(sent.context, forwards * one.context_bytes());
    sent.pipeline = std::max(sent.pipeline, forwards * one.pipeline_bytes());
    sent.data = std::max(sent.data, one.gradient_bytes());
    step.data = std::max(step.data, one.gradient_bytes() / data_rate);
    step.optimizer = std::max(step.optimizer, one.optimizer_seconds());
    const double compute = one.compute(), tensor = one.tensor_bytes() / tensor_rate,
                 context = one.context_bytes() / context_rate,
                 pipeline = one.pipeline_bytes() / pipeline_rate(topology, machine);
    if (compute + tensor + context + pipeline <= slowest) continue;
    slowest = compute + tensor + context + pipeline;
    step.compute = forwards * compute;
    step.tensor = forwards * tensor;
    step.context = forwards * context;
    step.pipeline = forwards * pipeline;
  }
  const double waits = as_double(topology.pipeline - 1) / as_double(topology.virtual_pipeline);
  step.bubble = waits * slowest;
  step.bubble_share = waits / (forwards + waits);
  step.seconds = forwards * slowest + step.bubble + step.data + step.optimizer;
  const double samples = as_double(run.config.train.global_batch_size);
  step.flops = (operations.layers + operations.head + operations.vision) * samples /
               as_double(run.samples_of_micro_batch());
  step.tokens = run.config.train.global_batch_size * run.sample.tokens;
  return step;
}

}  // namespace trestle
