// Keys `train.`, `validation.`, `optimizer.`, `scheduler.` and `rng.`: how a run learns and how
// that is measured.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/fields.h"
#include "recipes/bounds.h"
#include "recipes/data_source.h"

namespace trestle {

/// The validation loss where a metric is named: validation.best_metric, metrics.jsonl.
constexpr const char* kValidLoss = "valid_loss";

/// How many losses before it one is measured by: train.loss_spike_factor.
constexpr int64_t kSpikeWindow = 20;

struct TrainOptions {
  int64_t train_iters = 50;
  /// The length of a run in other words, at most one: train_iters follows.
  std::optional<int64_t> train_samples;
  std::optional<double> num_epochs;
  int64_t global_batch_size = 32;
  int64_t micro_batch_size = 1;
  std::optional<int64_t> exit_interval;
  std::optional<double> exit_duration_in_mins;
  std::string on_nan = "stop";
  int64_t max_steps_on_nan = 10;
  double loss_spike_factor = 0;
  std::string device = "auto";
  bool deterministic = false;
  static constexpr auto fields() {
    return std::tuple(
        field("train_iters", &TrainOptions::train_iters, OnResume::kFree, between(1, kMostSteps),
              "optimizer steps"),
        field("train_samples", &TrainOptions::train_samples, OnResume::kFree,
              between(1, kMostSteps * kMostSamples),
              "train_iters in samples: as many steps as they fill"),
        field("num_epochs", &TrainOptions::num_epochs, OnResume::kFree, above(0, 1e6),
              "train_iters in passes over the data, each of as many steps as take every row once"),
        field("global_batch_size", &TrainOptions::global_batch_size, OnResume::kSame,
              between(1, kMostSamples), "samples a step"),
        field("micro_batch_size", &TrainOptions::micro_batch_size, OnResume::kSame,
              between(1, kMostSamples), "samples a forward"),
        field("exit_interval", &TrainOptions::exit_interval, OnResume::kFree,
              between(1, kMostSteps), "save and stop at the first step that this divides"),
        field("exit_duration_in_mins", &TrainOptions::exit_duration_in_mins, OnResume::kFree,
              above(0, 1e6), "save and stop behind the step at which so many minutes have passed"),
        field("on_nan", &TrainOptions::on_nan, OnResume::kFree, OneOf("stop", "skip"),
              "stop, or skip: a step whose loss or gradient is not finite, or whose loss spikes, "
              "changes nothing"),
        field("max_steps_on_nan", &TrainOptions::max_steps_on_nan, OnResume::kFree,
              between(1, kMostSteps), "so many skipped steps on end stop the run"),
        field("loss_spike_factor", &TrainOptions::loss_spike_factor, OnResume::kFree,
              or_zero(above(1, 1e6)),
              "a loss over this times the mean of the 20 before counts as bad; 0: none does"),
        field("device", &TrainOptions::device, OnResume::kFree,
              "auto (the first card of a CUDA build, else the CPU), cpu, cuda or cuda:N "
              "(docs/gpu.md)"),
        field("deterministic", &TrainOptions::deterministic, OnResume::kFree,
              "on a card only kernels that sum in one order, so that a resumed run gives the same "
              "bits; on the CPU it is so anyway"));
  }
};

struct ValidationOptions {
  int64_t eval_interval = 5;
  int64_t eval_iters = 10;
  std::optional<int64_t> start_eval_at_iter;
  std::string path_or_dataset;
  std::vector<ValidationSet> sets;
  std::string subset;
  std::string split = "validation";
  int64_t answers = 0;
  int64_t max_new_tokens = 384;
  std::string best_metric;

  /// Megatron Bridge's two ways to turn it off.
  bool is_on() const { return eval_interval > 0 && eval_iters > 0; }
  /// Of best_metric the metric, and the name of the set that it is of; "" without sets.
  std::pair<std::string, std::string> best_metric_and_set() const {
    const size_t dash = sets.empty() ? best_metric.size() : best_metric.find('-');
    if (dash >= best_metric.size()) return {best_metric, ""};
    return {best_metric.substr(0, dash), best_metric.substr(dash + 1)};
  }
  static constexpr auto fields() {
    return std::tuple(
        field("eval_interval", &ValidationOptions::eval_interval, OnResume::kFree,
              between(0, kMostSteps), "steps between validations; 0: none"),
        field("eval_iters", &ValidationOptions::eval_iters, OnResume::kFree, between(0, kMostSteps),
              "the loss is that of the first so many global batches of rows; 0: no validation"),
        field("start_eval_at_iter", &ValidationOptions::start_eval_at_iter, OnResume::kFree,
              between(0, kMostSteps), "no validation before this step"),
        field("path_or_dataset", &ValidationOptions::path_or_dataset, OnResume::kFree,
              "file, directory or ORG/NAME[@REVISION] of the same maker; default: the training "
              "data's directory or name"),
        field("sets", &ValidationOptions::sets, OnResume::kFree,
              "several sets by name instead of path_or_dataset: [{name: N, path: A, maker_name: "
              "jsonl, split: S}, {name: M, path: B}]"),
        field("subset", &ValidationOptions::subset, OnResume::kFree,
              "of a data set on the Hub; default: dataset.subset where the data are the same"),
        field("split", &ValidationOptions::split, OnResume::kFree,
              "of a directory or a data set on the Hub"),
        field("answers", &ValidationOptions::answers, OnResume::kFree, between(0, kMostSamples),
              "so many of the first rows are answered greedily and scored; 0: the loss alone"),
        field("max_new_tokens", &ValidationOptions::max_new_tokens, OnResume::kFree,
              between(1, kMostTokens), "longest such answer"),
        field("best_metric", &ValidationOptions::best_metric, OnResume::kFree,
              "valid_loss or a score, with -NAME behind it that of one of the sets: the checkpoint "
              "that is best by it is kept, and best.json names it"));
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
  bool use_distributed_optimizer = true;
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
              "largest global gradient norm; 0: none"),
        field("use_distributed_optimizer", &OptimizerOptions::use_distributed_optimizer,
              OnResume::kFree,
              "of several ranks each keeps masters and moments of its share of the weights and "
              "updates that; false: each keeps and updates all"));
  }
};

struct SchedulerOptions {
  std::string lr_decay_style = "cosine";
  std::string lr_wsd_decay_style = "exponential";
  std::optional<int64_t> lr_wsd_decay_iters;
  int64_t lr_warmup_iters = 10;
  std::optional<double> lr_warmup_fraction;
  double lr_warmup_init = 0;
  std::optional<int64_t> lr_decay_iters;
  std::optional<double> start_weight_decay, end_weight_decay;
  std::string weight_decay_incr_style = "constant";
  static constexpr auto fields() {
    return std::tuple(
        field("lr_decay_style", &SchedulerOptions::lr_decay_style, OnResume::kFree,
              OneOf("cosine", "linear", "constant", "inverse-square-root", "WSD"),
              "cosine, linear, constant, inverse-square-root, or WSD: the peak until the last "
              "lr_wsd_decay_iters"),
        field("lr_wsd_decay_style", &SchedulerOptions::lr_wsd_decay_style, OnResume::kFree,
              OneOf("exponential", "linear", "cosine", "minus_sqrt"), "how WSD ends"),
        field("lr_wsd_decay_iters", &SchedulerOptions::lr_wsd_decay_iters, OnResume::kFree,
              between(1, kMostSteps), "steps of that end"),
        field("lr_warmup_iters", &SchedulerOptions::lr_warmup_iters, OnResume::kFree,
              between(0, kMostSteps)),
        field("lr_warmup_fraction", &SchedulerOptions::lr_warmup_fraction, OnResume::kFree,
              below(0, 1), "lr_warmup_iters as a share of the steps over which the rate decays"),
        field("lr_warmup_init", &SchedulerOptions::lr_warmup_init, OnResume::kFree, between(0, 10)),
        field("lr_decay_iters", &SchedulerOptions::lr_decay_iters, OnResume::kFree,
              between(1, kMostSteps), "default: train_iters"),
        field("start_weight_decay", &SchedulerOptions::start_weight_decay, OnResume::kFree,
              between(0, 10), "default: optimizer.weight_decay"),
        field("end_weight_decay", &SchedulerOptions::end_weight_decay, OnResume::kFree,
              between(0, 10), "at train_iters; default: optimizer.weight_decay"),
        field("weight_decay_incr_style", &SchedulerOptions::weight_decay_incr_style,
              OnResume::kFree, OneOf("constant", "linear", "cosine"),
              "how weight decay goes from one to the other"));
  }
};

struct DistOptions {
  int64_t distributed_timeout_minutes = 30;
  static constexpr auto fields() {
    return std::tuple(field(
        "distributed_timeout_minutes", &DistOptions::distributed_timeout_minutes, OnResume::kFree,
        between(1, 100'000), "how long a rank waits in a collective before the run is ended"));
  }
};

struct RngOptions {
  int64_t seed = 1234;
  static constexpr auto fields() {
    return std::tuple(field("seed", &RngOptions::seed, OnResume::kSame, between(0, kMostSeed)));
  }
};

}  // namespace trestle
