// Keys `checkpoint.` and `logger.`: what a run starts from and leaves behind.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "base/fields.h"
#include "recipes/bounds.h"

namespace trestle {

struct CheckpointOptions {
  std::string pretrained_checkpoint;
  std::string save;
  std::string load;
  int64_t save_interval = 50;
  static constexpr auto fields() {
    return std::tuple(
        field("pretrained_checkpoint", &CheckpointOptions::pretrained_checkpoint,
              OnResume::kSameContent, "HF or Megatron directory"),
        field("save", &CheckpointOptions::save, OnResume::kFree,
              "run directory; default $SAVE_DIR/NAME"),
        field("load", &CheckpointOptions::load, OnResume::kDerived,
              "run directory to resume from; auto: checkpoint.save, if it has a checkpoint"),
        field("save_interval", &CheckpointOptions::save_interval, OnResume::kFree,
              between(1, kMostSteps), "steps between checkpoints"));
  }
};

struct LoggerOptions {
  int64_t log_interval = 1;
  std::string tensorboard_dir;
  /// Nothing: the environment says. Set, even to "", they go before it.
  std::optional<std::string> wandb_project;
  std::optional<std::string> wandb_entity;
  std::string wandb_exp_name;
  std::optional<std::string> wandb_save_dir;
  static constexpr auto fields() {
    return std::tuple(
        field("log_interval", &LoggerOptions::log_interval, OnResume::kFree, between(1, kMostSteps),
              "steps between progress lines"),
        field("tensorboard_dir", &LoggerOptions::tensorboard_dir, OnResume::kFree,
              "default: RUN/tensorboard"),
        field("wandb_project", &LoggerOptions::wandb_project, OnResume::kFree,
              "turns Weights & Biases on, and off where it is set to nothing; default "
              "$WANDB_PROJECT"),
        field("wandb_entity", &LoggerOptions::wandb_entity, OnResume::kFree,
              "default $WANDB_ENTITY"),
        field("wandb_exp_name", &LoggerOptions::wandb_exp_name, OnResume::kFree,
              "the run's name there; default: the run directory's"),
        field("wandb_save_dir", &LoggerOptions::wandb_save_dir, OnResume::kFree,
              "where wandb/ is; default $WANDB_DIR, then the run directory"));
  }
};

}  // namespace trestle
