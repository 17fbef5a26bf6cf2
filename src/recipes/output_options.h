// Keys `checkpoint.` and `logger.`: what a run starts from and leaves behind.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/fields.h"
#include "recipes/bounds.h"

namespace trestle {

struct CheckpointOptions {
  std::string pretrained_checkpoint;
  std::string save;
  std::string load;
  std::optional<int64_t> ckpt_step;
  bool finetune = false;
  bool load_optim = true;
  bool load_rng = true;
  bool verify_integrity = false;
  int64_t save_interval = 50;
  /// -1: all of them are kept; 0 is refused.
  int64_t most_recent_k = -1;
  std::optional<int64_t> save_retain_interval;
  bool save_optim = true;
  bool save_rng = true;
  bool async_save = false;
  bool also_save_hf_checkpoint = false;
  std::string hf_source_path;
  static constexpr auto fields() {
    return std::tuple(
        field("pretrained_checkpoint", &CheckpointOptions::pretrained_checkpoint,
              OnResume::kSameContent, "HF or Megatron directory"),
        field("save", &CheckpointOptions::save, OnResume::kFree,
              "run directory; default $SAVE_DIR/NAME"),
        field("load", &CheckpointOptions::load, OnResume::kDerived,
              "run directory to resume from; auto: checkpoint.save, if it has a checkpoint"),
        field("ckpt_step", &CheckpointOptions::ckpt_step, OnResume::kDerived,
              between(0, kMostSteps), "the step of checkpoint.load to take; default: the newest"),
        field("finetune", &CheckpointOptions::finetune, OnResume::kDerived,
              "of checkpoint.load the weights alone, for a run that begins at step 0"),
        field("load_optim", &CheckpointOptions::load_optim, OnResume::kDerived,
              "false: optimizer and schedule begin anew"),
        field("load_rng", &CheckpointOptions::load_rng, OnResume::kDerived,
              "false: random numbers begin anew at rng.seed"),
        field("verify_integrity", &CheckpointOptions::verify_integrity, OnResume::kDerived,
              "hash the files of Megatron checkpoints again and compare, before they are loaded"),
        field("save_interval", &CheckpointOptions::save_interval, OnResume::kFree,
              between(1, kMostSteps), "steps between checkpoints"),
        field("most_recent_k", &CheckpointOptions::most_recent_k, OnResume::kFree,
              between(-1, kMostSteps), "checkpoints to keep beside the best; -1: all"),
        field("save_retain_interval", &CheckpointOptions::save_retain_interval, OnResume::kFree,
              between(1, kMostSteps),
              "keep those of its multiples, and of others most_recent_k, or the last"),
        field("save_optim", &CheckpointOptions::save_optim, OnResume::kFree,
              "false: weights alone are saved, from which no run goes on exactly"),
        field("save_rng", &CheckpointOptions::save_rng, OnResume::kFree,
              "false: the random state is not saved"),
        field("async_save", &CheckpointOptions::async_save, OnResume::kFree,
              "train on while a copy of what is saved is written"),
        field("also_save_hf_checkpoint", &CheckpointOptions::also_save_hf_checkpoint,
              OnResume::kFree, "write RUN/iter_N/hf too, for transformers or peft"),
        field("hf_source_path", &CheckpointOptions::hf_source_path, OnResume::kFree,
              "whose config, tokenizer and processor files go there, and what an adapter names as "
              "its base; default: pretrained_checkpoint"));
  }
};

struct LoggerOptions {
  int64_t log_interval = 1;
  bool log_throughput = false;
  bool log_params_norm = false;
  bool log_progress = false;
  std::string tensorboard_dir;
  int64_t tensorboard_log_interval = 1;
  bool log_throughput_to_tensorboard = false;
  bool log_memory_to_tensorboard = false;
  bool log_world_size_to_tensorboard = false;
  /// Nothing: the environment says. Set, even to "", they go before it.
  std::optional<std::string> wandb_project;
  std::optional<std::string> wandb_entity;
  std::string wandb_exp_name;
  std::optional<std::string> wandb_save_dir;
  std::string mlflow_experiment;
  std::string mlflow_run_name;
  /// Nothing: the environment says.
  std::optional<std::string> mlflow_tracking_uri;
  /// Each `name=value`.
  std::vector<std::string> mlflow_tags;
  std::string mlflow_description;
  bool mlflow_log_artifacts = true;
  static constexpr auto fields() {
    return std::tuple(
        field("log_interval", &LoggerOptions::log_interval, OnResume::kFree, between(1, kMostSteps),
              "steps between progress lines"),
        field("log_throughput", &LoggerOptions::log_throughput, OnResume::kFree,
              "TFLOP/s in progress lines (docs/metrics.md)"),
        field("log_params_norm", &LoggerOptions::log_params_norm, OnResume::kFree,
              "the 2-norm of all weights, each step"),
        field("log_progress", &LoggerOptions::log_progress, OnResume::kFree,
              "progress.txt: a line at the start and at each checkpoint"),
        field("tensorboard_dir", &LoggerOptions::tensorboard_dir, OnResume::kFree,
              "default: RUN/tensorboard"),
        field("tensorboard_log_interval", &LoggerOptions::tensorboard_log_interval, OnResume::kFree,
              between(1, kMostSteps),
              "steps between those that TensorBoard, W&B and MLflow are told of"),
        field("log_throughput_to_tensorboard", &LoggerOptions::log_throughput_to_tensorboard,
              OnResume::kFree, "TFLOP/s, batches and samples a second for them"),
        field("log_memory_to_tensorboard", &LoggerOptions::log_memory_to_tensorboard,
              OnResume::kFree, "the first rank's memory for them"),
        field("log_world_size_to_tensorboard", &LoggerOptions::log_world_size_to_tensorboard,
              OnResume::kFree, "the number of ranks for them"),
        field("wandb_project", &LoggerOptions::wandb_project, OnResume::kFree,
              "turns Weights & Biases on, and off where it is set to nothing; default "
              "$WANDB_PROJECT"),
        field("wandb_entity", &LoggerOptions::wandb_entity, OnResume::kFree,
              "default $WANDB_ENTITY"),
        field("wandb_exp_name", &LoggerOptions::wandb_exp_name, OnResume::kFree,
              "the run's name there; default: the run directory's"),
        field("wandb_save_dir", &LoggerOptions::wandb_save_dir, OnResume::kFree,
              "where wandb/ is; default $WANDB_DIR, then the run directory"),
        field("mlflow_experiment", &LoggerOptions::mlflow_experiment, OnResume::kFree,
              "turns MLflow on"),
        field("mlflow_run_name", &LoggerOptions::mlflow_run_name, OnResume::kFree,
              "default: the run directory's name"),
        field("mlflow_tracking_uri", &LoggerOptions::mlflow_tracking_uri, OnResume::kFree,
              "a folder or file: URI; default $MLFLOW_TRACKING_URI, then RUN/mlruns"),
        field("mlflow_tags", &LoggerOptions::mlflow_tags, OnResume::kFree, "[name=value, ...]"),
        field("mlflow_description", &LoggerOptions::mlflow_description, OnResume::kFree,
              "the run's description there"),
        field("mlflow_log_artifacts", &LoggerOptions::mlflow_log_artifacts, OnResume::kFree,
              "checkpoints are the run's artifacts there, as links where the disk can"));
  }
};

}  // namespace trestle
