// The whole model: images and token ids in, logits or a loss out. `named_parameters()` are
// Megatron's names. Called by train, generate and the bridge's loader.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "model/decoder.h"
#include "model/input.h"
#include "model/vision.h"

namespace trestle {

struct RankBatch;

/// Inputs may lie on the CPU or on the model's device, build().device; outputs are on the latter.
class Ministral3 : public torch::nn::Module {
 public:
  explicit Ministral3(const ModelConfig& config, const Build& build = {});

  /// Embeddings of the ids, with image features in place of the image tokens: [T, D].
  /// Throws UserError when ids and images disagree in number.
  at::Tensor embed(const ModelInput& input) const;
  /// The same from features made beforehand: [tokens, D], image after image.
  at::Tensor embed(const at::Tensor& ids_T, const at::Tensor& features) const;
  /// One feature per image token, image after image: [tokens, D].
  at::Tensor image_features(const std::vector<at::Tensor>& images_CHW) const;
  /// The same with the pictures shared out over tensor and context ranks, each of which has the
  /// whole tower: every rank has all features, and gradients of its own pictures alone.
  at::Tensor shared_image_features(const std::vector<at::Tensor>& images_CHW) const;
  /// Embedding and all decoder layers, before the final norm: [T, D].
  at::Tensor hidden(const ModelInput& input, KvCache* cache = nullptr) const;
  /// Hidden states of the decoder from embeddings made beforehand.
  at::Tensor hidden_from(const at::Tensor& embedded_TD, const ModelInput& input,
                         KvCache* cache = nullptr) const;
  /// Between decoder layers x is [T, D], or of sequence parallel ranks each one's share of the
  /// tokens: what embed() gives as the layers take it, and the rows of it.
  at::Tensor spread(const at::Tensor& x_TD) const;
  int64_t rows_between_layers(const ModelInput& input) const;
  /// Through the decoder layers of `run`: [T, D] -> [T, D]. Who calls advances the cache.
  at::Tensor through(const at::Tensor& x_TD, const ModelInput& input, LayerRun run,
                     KvCache* cache = nullptr) const;
  /// hidden() and the head on every row: [T, V].
  at::Tensor logits(const ModelInput& input, KvCache* cache = nullptr) const;

  /// Sum over the targets of -log p(target), fp32 scalar, and their number. labels_T int64 [T],
  /// -100 where there is no target, already shifted: labels[t] is what follows token t. Logits are
  /// made only where there is a target, and in pieces (chunked_cross_entropy). Over several context
  /// ranks, which all give the same rows, the sum is over this rank's share of the tokens and the
  /// number is of all.
  std::pair<at::Tensor, int64_t> loss_sum(const ModelInput& input,
                                          const at::Tensor& labels_T) const;
  /// The same in two steps, of a rank's share of the batch (batch_of_rank): what it takes, and the
  /// sum from what the last decoder layer gives.
  RankBatch rank_batch(const ModelInput& input, const at::Tensor& labels_T) const;
  at::Tensor loss_from(const at::Tensor& hidden_TD, const at::Tensor& labels_T) const;

  /// How activations of both towers are kept for the backward pass; gradients are the same.
  void set_recompute(const Recompute& recompute);

  /// Random weights: normal of `std`, output projections smaller with depth, norms 1, biases 0. A
  /// stage's are those that the whole model would have.
  void initialize(uint64_t seed, double std = 0.02);

  const ModelConfig& config() const { return config_; }
  const Build& build() const { return build_; }
  LanguageModel& language_model() const { return *language_model_; }
  /// Null for text-only models, and where another stage has it.
  VisionTower* vision_tower() const { return vision_tower_.get(); }
  Projector* projector() const { return projector_.get(); }

 private:
  ModelConfig config_;
  Build build_;
  std::shared_ptr<LanguageModel> language_model_;
  std::shared_ptr<VisionTower> vision_tower_;
  std::shared_ptr<Projector> projector_;
};

}  // namespace trestle
