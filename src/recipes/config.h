// Everything a training run is told, under Megatron Bridge's names. Settled before anything is
// built: recipe, then
// --config file, then key=value, then validate(). Called by recipes, the trainer and the command
// line.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "base/fields.h"
#include "peft/lora.h"

namespace trestle {

/// The validation loss where a metric is named: validation.best_metric, metrics.jsonl.
constexpr const char* kValidLoss = "valid_loss";

// Bounds that no run comes near and no product of which overflows.
constexpr double kMostSteps = 1e9, kMostSamples = 1e6, kMostTokens = 1 << 24, kMostRanks = 1 << 20;
// Of ImageLimits.
constexpr Range kMaxEdgeRange = between(0, 1 << 20);
constexpr Range kMaxTokensRange = or_zero(between(2, kMostTokens));
// Whole numbers up to here are exact in a double.
constexpr double kMostSeed = 9007199254740992;

struct ModelOptions {
  int64_t tensor_model_parallel_size = 1;
  int64_t pipeline_model_parallel_size = 1;
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
  static constexpr auto fields() {
    return std::tuple(
        field("tensor_model_parallel_size", &ModelOptions::tensor_model_parallel_size,
              OnResume::kFree, between(1, kMostRanks),
              "GPUs that share each layer; one process holds the whole model whatever it says"),
        field("pipeline_model_parallel_size", &ModelOptions::pipeline_model_parallel_size,
              OnResume::kFree, between(1, kMostRanks)),
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

struct TrainOptions {
  int64_t train_iters = 50;
  int64_t global_batch_size = 32;
  int64_t micro_batch_size = 1;
  std::optional<int64_t> exit_interval;
  std::string on_nan = "stop";
  int64_t max_steps_on_nan = 10;
  double loss_spike_factor = 0;
  static constexpr auto fields() {
    return std::tuple(
        field("train_iters", &TrainOptions::train_iters, OnResume::kFree, between(1, kMostSteps),
              "optimizer steps"),
        field("global_batch_size", &TrainOptions::global_batch_size, OnResume::kSame,
              between(1, kMostSamples), "samples a step"),
        field("micro_batch_size", &TrainOptions::micro_batch_size, OnResume::kSame,
              between(1, kMostSamples), "samples a forward"),
        field("exit_interval", &TrainOptions::exit_interval, OnResume::kFree,
              between(1, kMostSteps), "save and stop at the first step that this divides"),
        field("on_nan", &TrainOptions::on_nan, OnResume::kFree, OneOf("stop", "skip"),
              "stop, or skip: a step whose loss or gradient is not finite, or whose loss spikes, "
              "changes nothing"),
        field("max_steps_on_nan", &TrainOptions::max_steps_on_nan, OnResume::kFree,
              between(1, kMostSteps), "so many skipped steps on end stop the run"),
        field("loss_spike_factor", &TrainOptions::loss_spike_factor, OnResume::kFree,
              or_zero(above(1, 1e6)),
              "a loss over this times the mean of the 20 before counts as bad; 0: none does"));
  }
};

struct ValidationOptions {
  int64_t eval_interval = 5;
  int64_t eval_iters = 10;
  std::string path_or_dataset;
  std::string split = "validation";
  int64_t answers = 0;
  int64_t max_new_tokens = 384;
  std::string best_metric;
  static constexpr auto fields() {
    return std::tuple(
        field("eval_interval", &ValidationOptions::eval_interval, OnResume::kFree,
              between(0, kMostSteps), "steps between validations; 0: none"),
        field("eval_iters", &ValidationOptions::eval_iters, OnResume::kFree, between(1, kMostSteps),
              "the loss is that of the first so many global batches of rows"),
        field("path_or_dataset", &ValidationOptions::path_or_dataset, OnResume::kFree,
              "file or directory of the same maker; default: the training data's directory"),
        field("split", &ValidationOptions::split, OnResume::kFree, "for directories"),
        field("answers", &ValidationOptions::answers, OnResume::kFree, between(0, kMostSamples),
              "so many of the first rows are answered greedily and scored; 0: the loss alone"),
        field("max_new_tokens", &ValidationOptions::max_new_tokens, OnResume::kFree,
              between(1, kMostTokens), "longest such answer"),
        field("best_metric", &ValidationOptions::best_metric, OnResume::kFree,
              "valid_loss or a score: the checkpoint that is best by it is kept, and best.json "
              "names it"));
  }
};

struct OptimizerOptions {
  double lr = 5e-6;
  double min_lr = 5e-7;
  double weight_decay = 0.1;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_eps = 1e-8;
  double clip_grad = 1.0;
  static constexpr auto fields() {
    return std::tuple(
        field("lr", &OptimizerOptions::lr, OnResume::kFree, above(0, 10), "peak learning rate"),
        field("min_lr", &OptimizerOptions::min_lr, OnResume::kFree, between(0, 10),
              "where the schedule ends"),
        field("weight_decay", &OptimizerOptions::weight_decay, OnResume::kFree, between(0, 10),
              "of weights with two dimensions"),
        field("adam_beta1", &OptimizerOptions::adam_beta1, OnResume::kSame, below(0, 1)),
        field("adam_beta2", &OptimizerOptions::adam_beta2, OnResume::kSame, below(0, 1)),
        field("adam_eps", &OptimizerOptions::adam_eps, OnResume::kSame, above(0, 1)),
        field("clip_grad", &OptimizerOptions::clip_grad, OnResume::kFree, between(0, 1e9),
              "largest global gradient norm; 0: none"));
  }
};

struct SchedulerOptions {
  std::string lr_decay_style = "cosine";
  int64_t lr_warmup_iters = 10;
  double lr_warmup_init = 0;
  std::optional<int64_t> lr_decay_iters;
  static constexpr auto fields() {
    return std::tuple(
        field("lr_decay_style", &SchedulerOptions::lr_decay_style, OnResume::kFree,
              OneOf("cosine", "linear", "constant"), "cosine, linear or constant"),
        field("lr_warmup_iters", &SchedulerOptions::lr_warmup_iters, OnResume::kFree,
              between(0, kMostSteps)),
        field("lr_warmup_init", &SchedulerOptions::lr_warmup_init, OnResume::kFree, between(0, 10)),
        field("lr_decay_iters", &SchedulerOptions::lr_decay_iters, OnResume::kFree,
              between(1, kMostSteps), "default: train_iters"));
  }
};

struct DatasetOptions {
  std::string maker_name = "make_cord_v2_dataset";
  std::string path_or_dataset;
  std::string split = "train";
  bool shuffle = true;
  int64_t num_workers = 0;
  bool pack_sequences_in_batch = false;
  std::string overlong = "error";
  int64_t image_max_edge = 0;
  int64_t image_max_tokens = 0;
  std::string feature_cache;
  int64_t feature_cache_mb = 512;
  static constexpr auto fields() {
    return std::tuple(
        field("maker_name", &DatasetOptions::maker_name, OnResume::kSame),
        field("path_or_dataset", &DatasetOptions::path_or_dataset, OnResume::kSameContent,
              "file or directory"),
        field("split", &DatasetOptions::split, OnResume::kSame),
        field("shuffle", &DatasetOptions::shuffle, OnResume::kSame,
              "false: rows in order, wrapping around"),
        field("num_workers", &DatasetOptions::num_workers, OnResume::kFree, between(0, 256),
              "threads that read and prepare samples ahead; 0: none, as a step takes every core"),
        field("pack_sequences_in_batch", &DatasetOptions::pack_sequences_in_batch, OnResume::kSame,
              "a forward takes as many samples of the global batch as fit into "
              "train.micro_batch_size times model.seq_length tokens"),
        field("overlong", &DatasetOptions::overlong, OnResume::kSame,
              OneOf("error", "drop", "shrink-image", "cut-text"),
              "samples over model.seq_length: error, drop, shrink-image or cut-text"),
        field("image_max_edge", &DatasetOptions::image_max_edge, OnResume::kSame, kMaxEdgeRange,
              "pixels of a picture's longest side at most; 0: the checkpoint's own limit"),
        field("image_max_tokens", &DatasetOptions::image_max_tokens, OnResume::kSame,
              kMaxTokensRange, "tokens of a picture at most; 0: no limit of its own"),
        field("feature_cache", &DatasetOptions::feature_cache, OnResume::kFree,
              "directory where features of pictures are kept for later runs, while vision tower "
              "and projector are frozen"),
        field("feature_cache_mb", &DatasetOptions::feature_cache_mb, OnResume::kFree,
              between(0, 1 << 20), "MiB of such features that a run keeps in memory; 0: none"));
  }
};

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

struct RngOptions {
  int64_t seed = 1234;
  static constexpr auto fields() {
    return std::tuple(field("seed", &RngOptions::seed, OnResume::kSame, between(0, kMostSeed)));
  }
};

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
  RngOptions rng;
  static constexpr auto fields() {
    return std::tuple(
        field("model", &TrainConfig::model), field("train", &TrainConfig::train),
        field("validation", &TrainConfig::validation), field("optimizer", &TrainConfig::optimizer),
        field("scheduler", &TrainConfig::scheduler), field("dataset", &TrainConfig::dataset),
        field("peft", &TrainConfig::peft), field("checkpoint", &TrainConfig::checkpoint),
        field("logger", &TrainConfig::logger), field("rng", &TrainConfig::rng));
  }

  /// Where a key of an older spelling of the Bridge's is now: train.eval_interval,
  /// train.eval_iters.
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

/// The rate of step `step`, counted from 1: Megatron's schedule at step - 1, so that the first step
/// of a warm-up from 0 has rate 0 (megatron-core OptimizerParamScheduler.get_lr).
double learning_rate(const TrainConfig& config, int64_t step);

}  // namespace trestle
