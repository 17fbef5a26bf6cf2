#include "model/decoder.h"

#include <ATen/ATen.h>

#include "kernels/matrix_product.h"
#include "kernels/swiglu.h"
#include "model/embedding.h"
#include "model/host_input.h"

namespace trestle {

SelfAttention::SelfAttention(const TextConfig& config, const Build& build)
    : heads_per_group_(config.num_attention_heads / config.num_query_groups),
      head_dim_(config.head_dim),
      context_(build.groups.context) {
  const auto layout = FusedLayout::qkv(config.num_query_groups, heads_per_group_, head_dim_);
  linear_qkv = register_module(
      "linear_qkv",
      std::make_shared<NormLinear>(config.hidden_size,
                                   config.num_query_groups * (heads_per_group_ + 2) * head_dim_,
                                   config.rms_norm_eps, build, layout, Split::kRows));
  linear_proj = register_module(
      "linear_proj",
      std::make_shared<Linear>(config.num_attention_heads * head_dim_, config.hidden_size, build,
                               false, FusedLayout::plain(), Split::kColumns));
}

at::Tensor SelfAttention::forward(const at::Tensor& x_TD, const LayerContext& context,
                                  size_t layer) const {
  const at::Tensor qkv = linear_qkv->forward(x_TD);
  const at::Tensor qkv_TGMH = qkv.view({qkv.size(0), -1, heads_per_group_ + 2, head_dim_});
  if (!context.recompute_attention) return linear_proj->forward(attend(qkv_TGMH, context, layer));
  return linear_proj->forward(recomputed(
      [this, context, layer](const at::Tensor& qkv) { return attend(qkv, context, layer); },
      qkv_TGMH));
}

at::Tensor SelfAttention::attend(const at::Tensor& qkv_TGMH, const LayerContext& context,
                                 size_t layer) const {
  const auto [q_TGNH, k_TGH, v_TGH] =
      rotated_parts(qkv_TGMH, context.rotation, context.query_scale);
  if (context.share) return context_attention(q_TGNH, k_TGH, v_TGH, *context.share, context_);
  return context.cache == nullptr
             ? causal_attention(q_TGNH, k_TGH, v_TGH, context.packing)
             : cached_attention(q_TGNH, k_TGH, v_TGH, context.packing, *context.cache, layer);
}

Mlp::Mlp(const TextConfig& config, const Build& build) {
  linear_fc1 = register_module(
      "linear_fc1", std::make_shared<NormLinear>(config.hidden_size, 2 * config.intermediate_size,
                                                 config.rms_norm_eps, build, FusedLayout::gate_up(),
                                                 Split::kHalvedRows));
  linear_fc2 = register_module(
      "linear_fc2", std::make_shared<Linear>(config.intermediate_size, config.hidden_size, build,
                                             false, FusedLayout::plain(), Split::kColumns));
}

at::Tensor Mlp::forward(const at::Tensor& x_TD) const {
  const auto activated = [](const std::vector<at::Tensor>& gate_up) {
    return swiglu(gate_up.front());
  };
  const std::vector<at::Tensor> gate_up = {linear_fc1->forward(x_TD)};
  return linear_fc2->forward({activated(gate_up), gate_up, activated});
}

DecoderLayer::DecoderLayer(const TextConfig& config, const Build& build) {
  self_attention =
      register_module("self_attention", std::make_shared<SelfAttention>(config, build));
  mlp = register_module("mlp", std::make_shared<Mlp>(config, build));
}

at::Tensor DecoderLayer::forward(const at::Tensor& x_TD, const LayerContext& context,
                                 size_t layer) const {
  const at::Tensor attended_TD = x_TD + self_attention->forward(x_TD, context, layer);
  return attended_TD + mlp->forward(attended_TD);
}

LanguageModel::LanguageModel(const TextConfig& config, const Build& build)
    : config_(config),
      groups_(build.groups),
      embeds_(!build.stage || build.stage->is_first),
      tied_(config.tie_word_embeddings),
      frequencies_(rope_frequencies(config.rope, config.head_dim)) {
  const bool heads = !build.stage || build.stage->is_last;
  // A model without values serves positions of the CPU.
  if (!build.device.is_meta()) frequencies_.inverse = frequencies_.inverse.to(build.device);
  // Plain modules give Megatron's names: embedding.word_embeddings.weight, decoder.layers.N, ...
  if (embeds_ || (heads && tied_)) {
    auto embedding = register_module("embedding", std::make_shared<torch::nn::Module>());
    if (build.panels && tied_) {
      words_in_panels_ = embedding->register_module(
          "word_embeddings", std::make_shared<Linear>(config.hidden_size, config.vocab_size, build,
                                                      false, FusedLayout::plain(), Split::kRows));
      word_embeddings_ = words_in_panels_->weight;
    } else {
      auto words =
          embedding->register_module("word_embeddings", std::make_shared<torch::nn::Module>());
      word_embeddings_ = words->register_parameter(
          "weight", build.empty_share({config.vocab_size, config.hidden_size}, Split::kRows));
    }
  }
  Build matrices = build;
  if (!build.base.is_one()) {
    base_ = std::make_shared<BaseShards>(build.base);
    matrices.later = true;  // a layer at a time
  }
  auto decoder = register_module("decoder", std::make_shared<torch::nn::Module>());
  auto list = decoder->register_module("layers", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const bool here = !build.stage || build.stage->holds(i);
    layers_.push_back(here ? list->register_module(std::to_string(i),
                                                   std::make_shared<DecoderLayer>(config, matrices))
                           : nullptr);
  }
  if (!heads) return;
  final_layernorm_ = decoder->register_module(
      "final_layernorm", std::make_shared<RmsNorm>(config.hidden_size, config.rms_norm_eps, build));
  if (!tied_) {
    Build head = build;
    head.weight_bits = 16;
    head.keep_fp8 = false;  // as the embedding, which in other models is the head
    output_layer_ = register_module(
        "output_layer", std::make_shared<Linear>(config.hidden_size, config.vocab_size, head, false,
                                                 FusedLayout::plain(), Split::kRows));
  }
}

at::Tensor LanguageModel::embed(const at::Tensor& ids_T) const {
  TORCH_CHECK(embeds_, "this stage has no embedding");
  if (words_in_panels_) {
    return words_in_panels_->panels()->rows_at(ids_T).to(word_embeddings_.scalar_type());
  }
  return vocabulary_embedding(word_embeddings_, to_device(ids_T, word_embeddings_.device()),
                              groups_.tensor);
}

LayerContext LanguageModel::context(const at::Tensor& positions_T, const Packing& packing,
                                    KvCache* cache, at::ScalarType dtype) const {
  LayerContext context{text_rotation(frequencies_, positions_T, dtype), {}, packing, cache};
  context.recompute_attention = recompute_.granularity == Recompute::Granularity::kSelective;
  if (config_.rope.llama_4_scaling_beta) {
    context.query_scale = llama_4_query_scale(config_.rope, positions_T, dtype).view({-1, 1, 1, 1});
  }
  return context;
}

at::Tensor LanguageModel::layers(at::Tensor x_TD, size_t first, size_t last,
                                 const LayerContext& context) const {
  for (size_t i = first; i < last; ++i) TORCH_CHECK(layers_[i], "layer ", i, " is not here");
  const LayerStack stack{
      [this, context](const at::Tensor& x, size_t i) { return layers_[i]->forward(x, context, i); },
      [this](size_t i) { return layers_[i]->parameters(); }};
  return run_layers(stack, std::move(x_TD), first, last, recompute_);
}

void LanguageModel::share_out(size_t layer) {
  const SelfAttention& attention = *layers_[layer]->self_attention;
  const Mlp& mlp = *layers_[layer]->mlp;
  const std::vector<Linear*> projections = {attention.linear_qkv.get(), attention.linear_proj.get(),
                                            mlp.linear_fc1.get(), mlp.linear_fc2.get()};
  std::vector<at::Tensor> tensors;
  std::vector<size_t> first;
  for (const Linear* each : projections) {
    first.push_back(tensors.size());
    const std::vector<at::Tensor> held = each->held();
    tensors.insert(tensors.end(), held.begin(), held.end());
  }
  const auto number = static_cast<int64_t>(layer);
  base_->take(number, tensors);
  for (size_t i = 0; i < projections.size(); ++i) {
    projections[i]->share_out(base_, number, first[i]);
  }
}

const Linear* LanguageModel::head_in_panels() const {
  if (words_in_panels_) return words_in_panels_.get();
  return output_layer_ && output_layer_->panels() != nullptr ? output_layer_.get() : nullptr;
}

const at::Tensor& LanguageModel::head_weight() const {
  TORCH_CHECK(has_head(), "this stage has no head");
  TORCH_CHECK(!head_in_panels(), "the head's weight is in panels");
  return tied_ ? word_embeddings_ : output_layer_->weight;
}

at::Tensor LanguageModel::head(const at::Tensor& x_TD) const {
  if (const Linear* panels = head_in_panels()) return panels->forward(final_norm(x_TD));
  const at::Tensor logits = times_transposed(
      final_norm(groups_.enter(x_TD, groups_.spreads(is_training()))), head_weight());
  return groups_.tensor.is_one() ? logits : groups_.tensor.all_gather(logits.t()).t();
}

}  // namespace trestle
