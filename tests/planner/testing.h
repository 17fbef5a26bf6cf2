// A small model in the proportions of the family, and a step of it as torch's allocator counts it.
// Included by the tests of the planner.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "bridge/load_quantized.h"
#include "kernels/optimizer.h"
#include "memory.h"
#include "model/ministral3.h"
#include "peft/lora.h"
#include "planner/memory.h"

namespace trestle::testing {

inline ModelConfig small_model(bool tied, bool vision = true) {
  ModelConfig model;
  model.text = {.hidden_size = 128,
                .intermediate_size = 384,
                .num_layers = 6,
                .num_attention_heads = 8,
                .num_query_groups = 2,
                .head_dim = 16,
                .vocab_size = 1024,
                .max_position_embeddings = 4096,
                .tie_word_embeddings = tied,
                .rope = {}};
  model.text.rope.llama_4_scaling_beta = 0.1;
  model.text.rope.llama_4_original_max_position_embeddings = 4096;
  if (vision) {
    model.vision = VisionConfig{.hidden_size = 64,
                                .intermediate_size = 160,
                                .num_layers = 4,
                                .num_attention_heads = 4,
                                .head_dim = 16,
                                .patch_size = 4,
                                .image_size = 64};
  }
  return model;
}

inline TrainConfig small_run(const std::string& scheme, const std::string& dtype) {
  TrainConfig config;
  config.model.params_dtype = dtype;
  config.model.seq_length = 512;
  config.train.global_batch_size = 1;
  config.peft.scheme = scheme;
  config.peft.dim = 8;
  config.peft.base_bits = "16";
  return config;
}

inline PlannedRun planned(const ModelConfig& model, const TrainConfig& config) {
  PlannedRun run{config, ModelShape(model, config), largest_sample(model, config)};
  return run;
}

/// Bytes of tensors, as counted.
struct MeasuredStep {
  int64_t weights = 0, optimizer = 0, kept = 0, step = 0;
  int64_t total() const { return weights + optimizer + step; }
};

inline MeasuredStep measure(const PlannedRun& run) {
  const TrainConfig& config = run.config;
  const ModelConfig& model_config = run.shape.model();
  MeasuredStep measured;
  std::shared_ptr<Ministral3> model;
  measured.weights = held_bytes([&] {
    model = std::make_shared<Ministral3>(model_config,
                                         base_build(config.dtype(), config.peft.base_bits));
    const bool quantized = config.peft.base_bits != "16";
    if (!quantized) model->initialize(1);
    if (quantized) {
      for (auto& each : model->named_parameters()) {
        if (!each.value().is_meta()) each.value().detach().fill_(0.01);
      }
    }
    if (config.trains_adapters()) {
      attach_lora(*model, config.peft, 1);
    } else {
      for (const PlannedWeight& weight : run.shape.weights()) {
        model->named_parameters()[weight.name].requires_grad_(weight.trains);
      }
    }
    return 0;
  });
  model->train();
  model->set_recompute(config.recompute());
  AdamW::NamedTensors trained;
  for (const auto& entry : model->named_parameters()) {
    if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
  }
  std::unique_ptr<AdamW> optimizer;
  measured.optimizer = held_bytes([&] {
    optimizer = std::make_unique<AdamW>(trained, AdamWOptions{.clip_grad = 1});
    return 0;
  });
  const int64_t side = 2 * (model_config.vision ? model_config.vision->patch_size : 1);
  const auto batch = [&] {
    std::vector<int64_t> ids, lengths;
    std::vector<at::Tensor> pictures;
    for (int64_t i = 0; i < run.samples_of_micro_batch(); ++i) {
      for (int64_t j = 0; j < run.sample.tokens; ++j) ids.push_back(20 + j % 900);
      const size_t start = ids.size() - static_cast<size_t>(run.sample.tokens);
      for (int64_t p = 0; p < run.sample.pictures; ++p) {
        const int64_t tokens = run.sample.height / side * (run.sample.width / side);
        for (int64_t j = 0; j < tokens; ++j) {
          ids[start + static_cast<size_t>(p * tokens + j)] = model_config.image_token_id;
        }
        pictures.push_back(at::zeros({3, run.sample.height, run.sample.width}));
      }
      lengths.push_back(run.sample.tokens);
    }
    const at::Tensor all = at::tensor(ids, at::kLong);
    at::Tensor labels = at::full({all.size(0)}, -100, at::kLong);
    for (int64_t i = 0; i < run.samples_of_micro_batch(); ++i) {
      const int64_t end = (i + 1) * run.sample.tokens;
      labels.slice(0, end - run.sample.targets, end).fill_(5);
    }
    return std::pair(ModelInput::make(all, lengths, pictures), labels);
  };
  const auto forward = [&] {
    auto [input, labels] = batch();
    if (!input.images_CHW.empty() && !run.shape.vision_trains()) {
      const at::NoGradGuard no_grad;
      input.features = model->image_features(input.images_CHW);
    }
    return model->loss_sum(input, labels).first;
  };
  measured.kept = held_bytes(forward);
  measured.step = peak_bytes([&] {
    for (int64_t i = 0; i < run.micro_batches({}); ++i) forward().backward();
    optimizer->clip(optimizer->grad_norm().item<double>());
    optimizer->step(1e-4);
    optimizer->zero_grad();
  });
  return measured;
}

}  // namespace trestle::testing
