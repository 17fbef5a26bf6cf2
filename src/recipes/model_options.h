// Keys `model.`: how the model is held and what of it trains.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "base/fields.h"
#include "recipes/bounds.h"

namespace trestle {

struct ModelOptions {
  int64_t tensor_model_parallel_size = 1;
  int64_t pipeline_model_parallel_size = 1;
  int64_t virtual_pipeline_model_parallel_size = 1;
  std::optional<int64_t> num_layers_in_first_pipeline_stage;
  std::optional<int64_t> num_layers_in_last_pipeline_stage;
  bool account_for_embedding_in_pipeline_split = false;
  bool account_for_loss_in_pipeline_split = false;
  std::string pipeline_split = "equal";
  int64_t context_parallel_size = 1;
  bool sequence_parallel = false;
  int64_t seq_length = 4096;
  bool freeze_language_model = false;
  bool freeze_vision_model = false;
  bool freeze_vision_projection = false;
  std::string params_dtype = "bf16";
  std::string recompute_granularity = "none";
  std::string recompute_method = "uniform";
  int64_t recompute_num_layers = 1;

  /// Whether freeze_* name the part that has this parameter.
  bool freezes(std::string_view parameter) const {
    return (freeze_language_model && parameter.starts_with("language_model.")) ||
           (freeze_vision_model && parameter.starts_with("vision_tower.")) ||
           (freeze_vision_projection && parameter.starts_with("multi_modal_projector."));
  }

  static constexpr auto fields() {
    return std::tuple(
        field("tensor_model_parallel_size", &ModelOptions::tensor_model_parallel_size,
              OnResume::kFree, between(1, kMostRanks),
              "GPUs that share each layer; one process holds the whole model whatever it says"),
        field("pipeline_model_parallel_size", &ModelOptions::pipeline_model_parallel_size,
              OnResume::kFree, between(1, kMostRanks), "stages of whole layers"),
        field("virtual_pipeline_model_parallel_size",
              &ModelOptions::virtual_pipeline_model_parallel_size, OnResume::kFree,
              between(1, kMostRanks),
              "runs of layers that each stage takes by turns (interleaved)"),
        field("num_layers_in_first_pipeline_stage",
              &ModelOptions::num_layers_in_first_pipeline_stage, OnResume::kFree, between(1, 1e4),
              "layers of the first stage; by default all have as many"),
        field("num_layers_in_last_pipeline_stage", &ModelOptions::num_layers_in_last_pipeline_stage,
              OnResume::kFree, between(1, 1e4), "layers of the last stage"),
        field("account_for_embedding_in_pipeline_split",
              &ModelOptions::account_for_embedding_in_pipeline_split, OnResume::kFree,
              "whether the embedding counts as one of the first stage's layers"),
        field("account_for_loss_in_pipeline_split",
              &ModelOptions::account_for_loss_in_pipeline_split, OnResume::kFree,
              "whether the head counts as one of the last stage's layers"),
        field("pipeline_split", &ModelOptions::pipeline_split, OnResume::kFree,
              OneOf("equal", "cost"),
              "how stages share the layers: equal, or cost (so that tower, layers and head on the "
              "data's first rows weigh alike)"),
        field("context_parallel_size", &ModelOptions::context_parallel_size, OnResume::kFree,
              between(1, kMostRanks)),
        field("sequence_parallel", &ModelOptions::sequence_parallel, OnResume::kFree),
        field("seq_length", &ModelOptions::seq_length, OnResume::kSame, between(1, kMostTokens),
              "longest sample in tokens; see dataset.overlong"),
        field("freeze_language_model", &ModelOptions::freeze_language_model, OnResume::kSame),
        field("freeze_vision_model", &ModelOptions::freeze_vision_model, OnResume::kSame),
        field("freeze_vision_projection", &ModelOptions::freeze_vision_projection, OnResume::kSame),
        field("params_dtype", &ModelOptions::params_dtype, OnResume::kSame,
              OneOf("bf16", "float32"), "bf16 (fp32 masters) or float32"),
        field("recompute_granularity", &ModelOptions::recompute_granularity, OnResume::kFree,
              OneOf("none", "selective", "full"),
              "what the backward pass computes again instead of keeping it: none, selective (the "
              "core of attention) or full (whole layers)"),
        field("recompute_method", &ModelOptions::recompute_method, OnResume::kFree,
              OneOf("uniform", "block"),
              "of full: uniform (all layers, recompute_num_layers at a time) or block (the first "
              "recompute_num_layers)"),
        field("recompute_num_layers", &ModelOptions::recompute_num_layers, OnResume::kFree,
              between(1, 1e4)));
  }
};

}  // namespace trestle
