// The language tower: embedding, decoder layers, final norm and head, with Megatron's names
// throughout.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "model/attention.h"
#include "model/cached_attention.h"
#include "model/config.h"
#include "model/context_share.h"
#include "model/layers.h"
#include "model/recompute.h"
#include "model/rope.h"

namespace trestle {

/// What all layers of one forward share.
struct LayerContext {
  Rotation rotation;
  /// [T, 1, 1, 1], or undefined without Llama-4 scaling.
  at::Tensor query_scale;
  Packing packing;
  KvCache* cache = nullptr;
  /// Computes what lies between the projections of attention again in the backward pass.
  bool recompute_attention = false;
  /// Of rows that context ranks share out; else null.
  std::shared_ptr<const ContextShare> share = {};
};

class SelfAttention : public torch::nn::Module {
 public:
  SelfAttention(const TextConfig& config, const Build& build);
  at::Tensor forward(const at::Tensor& x_TD, const LayerContext& context, size_t layer) const;

  std::shared_ptr<NormLinear> linear_qkv;
  std::shared_ptr<Linear> linear_proj;

 private:
  /// [T, G, N+2, H] -> [T, G*N*H].
  at::Tensor attend(const at::Tensor& qkv_TGMH, const LayerContext& context, size_t layer) const;

  int64_t heads_per_group_, head_dim_;
  Group context_;
};

class Mlp : public torch::nn::Module {
 public:
  Mlp(const TextConfig& config, const Build& build);
  at::Tensor forward(const at::Tensor& x_TD) const;

  std::shared_ptr<NormLinear> linear_fc1;
  std::shared_ptr<Linear> linear_fc2;
};

class DecoderLayer : public torch::nn::Module {
 public:
  DecoderLayer(const TextConfig& config, const Build& build);
  at::Tensor forward(const at::Tensor& x_TD, const LayerContext& context, size_t layer) const;

  std::shared_ptr<SelfAttention> self_attention;
  std::shared_ptr<Mlp> mlp;
};

/// Of a pipeline's stage it has the layers of Build::stage under their numbers in the whole model,
/// and embedding and head where they are the stage's.
class LanguageModel : public torch::nn::Module {
 public:
  LanguageModel(const TextConfig& config, const Build& build);

  /// int64 [T], wherever they are -> [T, D].
  at::Tensor embed(const at::Tensor& ids_T) const;
  /// `positions_T` where the layers are.
  LayerContext context(const at::Tensor& positions_T, const Packing& packing, KvCache* cache,
                       at::ScalarType dtype) const;
  /// Runs decoder layers first .. last-1, which must be here, as set_recompute() says where
  /// gradients are made.
  at::Tensor layers(at::Tensor x_TD, size_t first, size_t last, const LayerContext& context) const;
  /// Final norm and head: [T, D] -> logits [T, V]. Rows are independent: pass only those that are
  /// needed. Gives no gradients over several tensor ranks, whose logits loss() does not gather.
  at::Tensor head(const at::Tensor& x_TD) const;
  at::Tensor final_norm(const at::Tensor& x_TD) const { return final_layernorm_->forward(x_TD); }
  const ModelGroups& groups() const { return groups_; }
  /// The weight of the head: its own, or the embedding's where tied. [V, D]. Not of panels.
  const at::Tensor& head_weight() const;
  void set_recompute(const Recompute& recompute) { recompute_ = recompute; }
  const Recompute& recompute() const { return recompute_; }
  /// The layer's module, for who fills it.
  DecoderLayer& layer(size_t layer) const { return *layers_[layer]; }
  /// With Build::base: the matrices of a layer that is filled and will not change go to where ranks
  /// share them out. All ranks of Build::base do it alike, layer by layer.
  void share_out(size_t layer);
  /// Null without.
  BaseShards* base() const { return base_.get(); }
  /// Of the whole model.
  size_t num_layers() const { return layers_.size(); }
  bool has_layer(size_t layer) const { return layers_[layer] != nullptr; }
  bool has_head() const { return final_layernorm_ != nullptr; }
  /// Whether ids come in here; the copy of a tied embedding that a last stage has is its head.
  bool has_embedding() const { return embeds_; }
  /// Undefined where the stage has none; without values where they are in panels.
  const at::Tensor& word_embeddings() const { return word_embeddings_; }

 private:
  /// Null where it is not in panels.
  const Linear* head_in_panels() const;

  TextConfig config_;
  ModelGroups groups_;
  Recompute recompute_;
  RopeFrequencies frequencies_;
  bool embeds_, tied_;
  at::Tensor word_embeddings_;
  // With Build::panels, and tied: both the embedding and the head.
  std::shared_ptr<Linear> words_in_panels_;
  std::shared_ptr<BaseShards> base_;
  // Null where another stage has it.
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::shared_ptr<RmsNorm> final_layernorm_;
  // Null when the embedding is the head's weight too, or another stage has the head.
  std::shared_ptr<Linear> output_layer_;
};

}  // namespace trestle
