// A model's forward passes as answers take them: of a whole model, or through the stages of a
// pipeline. Called by the generator.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/input.h"
#include "model/ministral3.h"
#include "parallel/group.h"

namespace trestle {

class KvCache;

/// Of several stages, `model` is this rank's stage of one, and all ranks of `stages`, who are in
/// the pipeline's order, make the same calls: each sees the same logits and so chooses the same
/// tokens. A rank that does not hold what a call gives gets an undefined tensor and passes that on.
class Forward {
 public:
  /// Keeps a reference to `model`.
  Forward(const Ministral3& model, Group stages = {})  // NOLINT(google-explicit-constructor)
      : model_(&model), stages_(std::move(stages)) {}

  const Ministral3& model() const { return *model_; }
  bool is_whole() const { return stages_.is_one(); }

  /// Ministral3::embed, on the first stage: [T, D].
  at::Tensor embed(const ModelInput& input) const;
  /// Ministral3::hidden_from, on the last stage: [T, D]. Throws LostRank where another stage is
  /// gone.
  at::Tensor hidden_from(const at::Tensor& embedded_TD, const ModelInput& input,
                         KvCache& cache) const;
  at::Tensor hidden(const ModelInput& input, KvCache& cache) const {
    return hidden_from(embed(input), input, cache);
  }
  /// LanguageModel::head of `rows` rows, on all stages: logits [rows, V].
  at::Tensor head(const at::Tensor& x_RD, int64_t rows) const;

 private:
  at::Tensor through_stages(at::Tensor x_TD, const ModelInput& input, KvCache& cache) const;

  const Ministral3* model_;
  Group stages_;
};

}  // namespace trestle
