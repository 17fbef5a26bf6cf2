// Learning rate and weight decay of each step: megatron-core's OptimizerParamScheduler (get_lr,
// get_wd). Called by the trainer and its checkpoints.
#pragma once

#include <cstdint>

#include "recipes/config.h"

namespace trestle {

/// Steps are counted from 1, and step n has the value of Megatron's schedule at n - 1: the first
/// step of a warm-up from 0 has rate 0.
double learning_rate(const TrainConfig& config, int64_t step);
double weight_decay(const TrainConfig& config, int64_t step);

/// scheduler.lr_warmup_iters, or the share of the decay that lr_warmup_fraction is; of a share the
/// last step need not be whole.
double warmup_steps(const TrainConfig& config);
/// scheduler.lr_decay_iters or train.train_iters.
int64_t decay_steps(const TrainConfig& config);

/// Whether train.train_iters is what will be run before data and checkpoint are opened:
/// train.num_epochs counts rows, and in a run that goes on train.train_samples may follow steps of
/// another batch.
bool length_is_known(const TrainConfig& config);

/// Throws UserError, as megatron-core asserts, for what does not fit together. `length_known`:
/// train.train_iters is what will be run (length_is_known; a trainer settles it).
void check_schedule(const TrainConfig& config, bool length_known);

}  // namespace trestle
