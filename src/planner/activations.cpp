#include "planner/activations.h"

#include <algorithm>

#include "model/chunked_loss.h"

namespace trestle {

namespace {

// Per token or patch, in bytes.
struct Rows {
  const PlannedRun& run;
  int64_t e = run.element_bytes();

  // kernels/rms_norm.cpp: 1 / rms.
  int64_t norm(bool flows, bool trains) const { return flows || trains ? kFloatBytes : 0; }
  // The norm's input itself, where the norm or a projection behind it keeps it.
  int64_t stream(int64_t width, bool flows, bool trains, bool needed) const {
    return flows || trains || needed ? width * e : 0;
  }
  // linear/projection.cpp: x A^T of an adapter, dropout's mask; DoRA's product before the gain, and
  // under dropout its input too.
  int64_t adapter(const std::string& projection, int64_t in, int64_t out) const {
    const int64_t rank = run.shape.adapter_rank(projection);
    if (rank == 0) return 0;
    const LoraConfig& peft = run.config.peft;
    const int64_t bytes = rank * e + (peft.is_dora() ? out * e : 0);
    if (peft.dropout == 0) return bytes;
    // A mask of bools; DoRA's is at::dropout's, on the CPU in the input's dtype.
    return bytes + (peft.is_dora() ? in * (e + (run.on_card ? 1 : e)) : in);
  }
  bool adapts(const std::string& projection) const {
    return run.shape.adapter_rank(projection) > 0;
  }
  // An adapter or the weight needs the projection's input.
  bool needs_input(const std::string& projection) const {
    return adapts(projection) || run.shape.trains(projection + ".weight");
  }
  // The same of an input that is made again from a norm's; DoRA's dropout is not made again.
  bool needs_stream(const std::string& projection) const {
    return needs_input(projection) && !(run.config.peft.is_dora() && run.config.peft.dropout > 0);
  }
  bool any_trains(const std::string& projection) const {
    return run.shape.trains(projection + ".");
  }
  // Gate and up: linear_fc2's input is not kept, nor silu(gate) (kernels/swiglu.cpp).
  int64_t activation(int64_t ffn) const { return 2 * ffn * e; }
};

struct TextNames {
  std::string qkv = "language_model.decoder.layers.0.self_attention.linear_qkv";
  std::string proj = "language_model.decoder.layers.0.self_attention.linear_proj";
  std::string fc1 = "language_model.decoder.layers.0.mlp.linear_fc1";
  std::string fc2 = "language_model.decoder.layers.0.mlp.linear_fc2";
};

struct VisionNames {
  std::string layer = "vision_tower.transformer.layers.0.";
  std::string norm1 = layer + "attention_norm", norm2 = layer + "ffn_norm";
  std::string q = layer + "attention.q_proj", k = layer + "attention.k_proj",
              v = layer + "attention.v_proj", o = layer + "attention.o_proj",
              gate = layer + "feed_forward.gate_proj", up = layer + "feed_forward.up_proj",
              down = layer + "feed_forward.down_proj";
};

bool trains_norm(const PlannedRun& run, const std::string& projection) {
  return run.shape.trains(projection + ".layer_norm_weight");
}

// Gradients reach the input of the first layer: of the embedding, or of pictures' features.
bool flows_into_text(const PlannedRun& run) {
  return run.shape.trains("language_model.embedding.") ||
         (run.sample.pictures > 0 && run.shape.vision_trains());
}

bool text_layer_trains(const PlannedRun& run) {
  return run.shape.trains("language_model.decoder.layers.");
}

// Patches of the pictures of a micro-batch that one tensor rank runs, the most that any has.
int64_t patches_of_rank(const PlannedRun& run, const Topology& topology) {
  if (run.sample.pictures == 0) return 0;
  const int64_t side = run.shape.model().vision->patch_size;
  const int64_t pictures = run.samples_of_micro_batch() * run.sample.pictures;
  return divided_up(pictures, topology.tensor) * (run.sample.height / side) *
         (run.sample.width / side);
}

int64_t vision_layer_bytes(const PlannedRun& run, bool flows) {
  const VisionConfig& vision = *run.shape.model().vision;
  const Rows row{run};
  const VisionNames name;
  const int64_t D = vision.hidden_size, F = vision.intermediate_size, e = row.e;
  const int64_t heads = vision.num_attention_heads * vision.head_dim;
  const bool norm1 = row.any_trains(name.norm1), norm2 = row.any_trains(name.norm2);
  const auto needs = [&](std::initializer_list<const std::string*> projections) {
    return std::ranges::any_of(projections,
                               [&](const auto* each) { return row.needs_input(*each); });
  };
  const bool attended =
      flows || norm1 || row.any_trains(name.q) || row.any_trains(name.k) || row.any_trains(name.v);
  int64_t bytes = row.stream(D, flows, norm1, false) + row.norm(flows, norm1);
  if (needs({&name.q, &name.k, &name.v})) bytes += D * e;  // the normed rows, once
  const bool selective = run.config.recompute().granularity == Recompute::Granularity::kSelective;
  // q, k, v turned (selective: as they came), attention's output and its log sums.
  if (attended) bytes += 4 * heads * e + (selective ? 0 : vision.num_attention_heads * kFloatBytes);
  const bool behind = attended || row.any_trains(name.o);
  bytes += row.stream(D, behind, norm2, false) + row.norm(behind, norm2);
  if (needs({&name.gate, &name.up})) bytes += D * e;
  if (behind || norm2 || row.any_trains(name.gate) || row.any_trains(name.up)) {
    bytes += row.activation(F);
  }
  if (needs({&name.down})) bytes += F * e;  // two projections' product is not made again
  for (const std::string* each : {&name.q, &name.k, &name.v}) bytes += row.adapter(*each, D, heads);
  bytes += row.adapter(name.o, heads, D) + row.adapter(name.down, F, D);
  for (const std::string* each : {&name.gate, &name.up}) bytes += row.adapter(*each, D, F);
  return bytes;
}

// Of a stack, as model/recompute.h's run_layers goes through it. `input`: of one layer.
LayersKept stack_bytes(const Recompute& recompute, int64_t layers, int64_t first, int64_t other,
                       int64_t input) {
  if (layers == 0) return {};
  const auto whole = [&](int64_t count, bool has_first) {
    return count == 0 ? 0 : (count - 1) * other + (has_first ? first : other);
  };
  if (recompute.granularity != Recompute::Granularity::kFull) return {whole(layers, true), 0};
  const int64_t count = std::min(recompute.num_layers, layers);
  if (recompute.method == Recompute::Method::kUniform) {
    return {divided_up(layers, count) * input, whole(count, false)};
  }
  // The others go backward first, and are gone by then.
  const int64_t rest = layers - count;
  return {count * input + whole(rest, false), rest == 0 ? other : 0};
}

}  // namespace

int64_t tokens_of_rank(const PlannedRun& run, const Topology& topology) {
  return divided_up(run.tokens_of_micro_batch(), topology.context);
}

int64_t targets_of_rank(const PlannedRun& run, const Topology& topology) {
  return std::min(divided_up(run.samples_of_micro_batch() * run.sample.targets, topology.context),
                  tokens_of_rank(run, topology));
}

int64_t text_layer_bytes(const PlannedRun& run, const Topology& topology, bool flows) {
  const TextConfig& text = run.shape.model().text;
  const Rows row{run};
  const TextNames name;
  const int64_t e = row.e, D = text.hidden_size, tensor = topology.tensor;
  const int64_t Q = text.num_attention_heads * text.head_dim / tensor;
  const int64_t K = text.num_query_groups * text.head_dim / tensor;
  const int64_t F = text.intermediate_size / tensor, heads = text.num_attention_heads / tensor;
  const bool norm1 = trains_norm(run, name.qkv), norm2 = trains_norm(run, name.fc1);

  // What every rank has of every token, or with sequence_parallel of its part of them.
  int64_t shared = row.stream(D, flows, norm1, row.needs_stream(name.qkv)) + row.norm(flows, norm1);
  const bool attended = flows || row.any_trains(name.qkv);
  const bool behind = attended || row.any_trains(name.proj);
  shared += row.stream(D, behind, norm2, row.needs_stream(name.fc1)) + row.norm(behind, norm2);
  const int64_t parts = topology.sequence_parallel ? tensor : 1;

  int64_t own = 0;
  if (attended) {
    const bool selective = run.config.recompute().granularity == Recompute::Granularity::kSelective;
    // q, k, v turned (kernels/rotate.cpp); selective: the projection's output.
    own += (Q + 2 * K) * e;
    if (!selective) own += Q * e + heads * kFloatBytes;  // output and log sums
    if (selective && row.needs_input(name.proj)) own += Q * e;
    // Keys and values of the other context ranks.
    if (!selective && topology.context > 1) own += 2 * K * e * (topology.context - 1);
  } else if (row.needs_input(name.proj)) {
    own += Q * e;
  }
  if (behind || row.any_trains(name.fc1)) {
    own += row.activation(F);
  } else if (row.needs_input(name.fc2)) {
    own += 2 * F * e;  // which fc2's input is made from
  }
  own += row.adapter(name.qkv, D, Q + 2 * K) + row.adapter(name.proj, Q, D) +
         row.adapter(name.fc1, D, 2 * F) + row.adapter(name.fc2, F, D);
  const int64_t tokens = tokens_of_rank(run, topology);
  return tokens * own + divided_up(tokens * shared, parts);
}

int64_t context_bytes(const PlannedRun& run, const Topology& topology) {
  // cos and sin of the tokens' positions and the query's scale; ids, positions, labels, and places
  // of targets and pictures.
  const int64_t rotation = (2 * run.shape.model().text.head_dim + 1) * run.element_bytes();
  return tokens_of_rank(run, topology) * (rotation + 5 * 8);
}

LayersKept text_layers_bytes(const PlannedRun& run, const Topology& topology, LayerRun layers) {
  const bool first = layers.first == 0;
  const bool flows = flows_into_text(run);
  if (!flows && !text_layer_trains(run)) return {};
  const int64_t other = text_layer_bytes(run, topology, true);
  const int64_t begin = first ? text_layer_bytes(run, topology, flows) : other;
  const int64_t parts = topology.sequence_parallel ? topology.tensor : 1;
  const int64_t input = divided_up(
      tokens_of_rank(run, topology) * run.shape.model().text.hidden_size * run.element_bytes(),
      parts);
  return stack_bytes(run.config.recompute(), layers.size(), begin, other, input);
}

LayersKept vision_bytes(const PlannedRun& run, const Topology& topology) {
  if (run.sample.pictures == 0 || !run.shape.vision_trains()) return {};
  const VisionConfig& vision = *run.shape.model().vision;
  const Rows row{run};
  const int64_t e = row.e, D = vision.hidden_size, hidden = run.shape.model().text.hidden_size;
  const int64_t merge = run.shape.model().projector.spatial_merge_size;
  const int64_t patches = patches_of_rank(run, topology), merged = patches / (merge * merge);
  const auto trains = [&](const char* name) { return run.shape.trains(name); };
  const bool conv = trains("vision_tower.patch_conv."), pre = trains("vision_tower.ln_pre.");
  int64_t kept = 0;
  LayersKept stack;
  const bool tower = trains("vision_tower.");
  if (tower) {
    if (conv) kept += patches * vision.num_channels * vision.patch_size * vision.patch_size * e;
    kept += patches * (row.stream(D, conv, pre, false) + row.norm(conv, pre));
    kept += patches * 2 * vision.head_dim * e;  // cos and sin of their places
    stack = stack_bytes(run.config.recompute(), vision.num_layers,
                        patches * vision_layer_bytes(run, conv || pre),
                        patches * vision_layer_bytes(run, true), patches * D * e);
  }
  // The projector: its norm, the merged rows, and what linear_1, the activation and linear_2 see.
  const bool norm = trains("multi_modal_projector.norm.");
  kept += patches * (row.stream(D, tower, norm, false) + row.norm(tower, norm));
  const std::string projector = "multi_modal_projector.";
  if (row.needs_input(projector + "patch_merger.merging_layer")) kept += patches * D * e;
  if (row.needs_input(projector + "linear_1")) kept += merged * D * e;
  kept += merged * hidden * e;
  if (row.needs_input(projector + "linear_2")) kept += merged * hidden * e;
  return {kept + stack.kept, stack.remade};
}

int64_t head_bytes(const PlannedRun& run, const Topology& topology) {
  const Rows row{run};
  const int64_t D = run.shape.model().text.hidden_size;
  const bool flows = flows_into_text(run) || text_layer_trains(run);
  const bool norm = run.shape.trains("language_model.decoder.final_layernorm.");
  const bool head =
      run.shape.trains(run.shape.model().text.tie_word_embeddings ? "language_model.embedding."
                                                                  : "language_model.output_layer.");
  // The rows that have targets, normed for the head's gradient, their own gradient, three sums.
  int64_t bytes = row.stream(D, flows, norm, false) + row.norm(flows, norm) + 3 * kFloatBytes;
  if (head) bytes += D * row.e;
  if (flows || norm) bytes += D * row.e;
  return targets_of_rank(run, topology) * bytes;
}

int64_t logits_bytes(const PlannedRun& run, const Topology& topology) {
  const int64_t vocabulary = run.shape.model().text.vocab_size / topology.tensor;
  const int64_t most = run.on_card ? kLogitsAtOnceOnACard : kLogitsAtOnce;
  const int64_t rows =
      std::min(targets_of_rank(run, topology), std::max<int64_t>(1, most / vocabulary));
  // kernels/cross_entropy.cpp: a kernel works in place; operators widen to fp32, and round the
  // gradient back.
  const int64_t e = run.element_bytes();
  const int64_t each = run.on_card || e == kFloatBytes ? e : e + kFloatBytes;
  return rows * vocabulary * each + rows * run.shape.model().text.hidden_size * e;
}

int64_t page_rests(const PlannedRun& run, const Topology& topology, LayerRun layers) {
  if (!flows_into_text(run) && !text_layer_trains(run)) return 0;
  const TextConfig& text = run.shape.model().text;
  const int64_t tokens = tokens_of_rank(run, topology), e = run.element_bytes();
  const int64_t D = text.hidden_size, F = text.intermediate_size / topology.tensor;
  const int64_t Q = text.num_attention_heads * text.head_dim / topology.tensor;
  const int64_t stream = page_rest(tokens * D * e);
  const Recompute recompute = run.config.recompute();
  if (recompute.granularity == Recompute::Granularity::kFull) return layers.size() * stream;
  // The stream, q and attention's output, gate and up.
  int64_t each = 2 * stream + 2 * page_rest(tokens * Q * e) + page_rest(tokens * 2 * F * e);
  if (run.config.peft.is_dora()) each += page_rest(tokens * 2 * F * e) + 2 * stream;
  return layers.size() * each;
}

int64_t layer_backward_bytes(const PlannedRun& run, const Topology& topology) {
  const TextConfig& text = run.shape.model().text;
  const Rows row{run};
  const TextNames name;
  const int64_t F = text.intermediate_size / topology.tensor, D = text.hidden_size, e = row.e;
  // Behind fc2: its input made again and that input's gradient, then the one of gate and up.
  int64_t passing = 3 * F * e;
  if (run.config.peft.is_dora() && row.adapts(name.fc1)) {
    // linear/linear.cpp, by_dora: the gain in fp32. fc1's gradient is there in fp32 too, times the
    // gain and times the product, when what gate and up kept is gone.
    const int64_t wide = 2 * F * (3 * kFloatBytes + (e < kFloatBytes ? e : 0));
    passing = std::max(passing, wide - row.activation(F));
  }
  // Dropout's input is made again too.
  if (!run.config.peft.is_dora() && run.config.peft.dropout > 0 && row.adapts(name.fc2)) {
    passing = std::max(passing, 4 * F * e);
  }
  // The stream's gradient; that of fc2's weight.
  const int64_t weight = run.shape.trains(name.fc2 + ".weight") ? F * D * e : 0;
  return tokens_of_rank(run, topology) * (passing + D * e) + weight;
}

int64_t vision_backward_bytes(const PlannedRun& run, const Topology& topology) {
  if (run.sample.pictures == 0 || !run.shape.trains("vision_tower.")) return 0;
  const VisionConfig& vision = *run.shape.model().vision;
  return patches_of_rank(run, topology) * (4 * vision.intermediate_size + 3 * vision.hidden_size) *
         run.element_bytes();
}

}  // namespace trestle
