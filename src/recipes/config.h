// Everything a training run is told, under Megatron Bridge's names: one group of keys a member.
// Settled before anything is built: recipe, then --config file, then key=value, then validate().
// Called by recipes, the trainer and the command line.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "base/fields.h"
#include "model/recompute.h"
#include "peft/lora_config.h"
#include "recipes/dataset_options.h"
#include "recipes/model_options.h"
#include "recipes/output_options.h"
#include "recipes/profiling_options.h"
#include "recipes/train_options.h"

namespace trestle {

struct TrainConfig {
  ModelOptions model;
  TrainOptions train;
  ValidationOptions validation;
  OptimizerOptions optimizer;
  SchedulerOptions scheduler;
  DatasetOptions dataset;
  LoraConfig peft;
  CheckpointOptions checkpoint;
  LoggerOptions logger;
  ProfilingOptions profiling;
  RngOptions rng;
  DistOptions dist;
  static constexpr auto fields() {
    return std::tuple(
        field("model", &TrainConfig::model), field("train", &TrainConfig::train),
        field("validation", &TrainConfig::validation), field("optimizer", &TrainConfig::optimizer),
        field("scheduler", &TrainConfig::scheduler), field("dataset", &TrainConfig::dataset),
        field("peft", &TrainConfig::peft), field("checkpoint", &TrainConfig::checkpoint),
        field("logger", &TrainConfig::logger), field("profiling", &TrainConfig::profiling),
        field("rng", &TrainConfig::rng), field("dist", &TrainConfig::dist));
  }

  /// Where a key that Megatron Bridge spells otherwise is here: train.eval_interval,
  /// dataset.seq_length.
  static std::string_view current_name(std::string_view key);
  /// LoRA or DoRA: the base's weights stay as they are.
  bool trains_adapters() const { return !peft.scheme.empty(); }
  /// Whether anything depends on rng.seed: the order of rows, the start of adapters, dropout.
  /// peft.dropout is that of peft.adapter_path once the trainer has opened it.
  bool draws() const;
  at::ScalarType dtype() const {
    return model.params_dtype == "float32" ? at::kFloat : at::kBFloat16;
  }
  Recompute recompute() const;
  /// Values and what must fit together, but not what is still to be named. Throws UserError naming
  /// the key, its value and what is allowed.
  void validate_values() const;
  /// The same, and that model, data and run directory are named.
  void validate() const;
};

// What the tables of fields make: once, in config.cpp.
extern template std::vector<FieldText> list_fields(const TrainConfig&);
extern template void check_values(const TrainConfig&, const std::string&);
extern template void set_field(TrainConfig&, const Assignment&, const TrainConfig&);

}  // namespace trestle
