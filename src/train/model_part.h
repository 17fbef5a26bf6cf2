// Which part of the model a rank builds. Called by the trainer.
#pragma once

#include <functional>
#include <string_view>

#include "data/datasets.h"
#include "data/processor.h"
#include "linear/linear.h"
#include "model/config.h"
#include "parallel/grid.h"
#include "recipes/config.h"

namespace trestle {

class Ministral3;

/// base_build() of what `grid`'s rank holds. `costs` is asked where the config splits by cost.
/// Throws UserError naming keys and values for a topology or stages that the model's sizes do not
/// allow.
Build build_of_rank(const TrainConfig& config, const ModelConfig& model, const Grid& grid,
                    at::Device device, const std::function<PartCosts()>& costs);

/// Freezes what model.freeze_* name; the rest trains.
void freeze(Ministral3& model, const ModelOptions& options);

/// What the parts of a model take on some of the data's first rows: that of which `build_of_rank`
/// is told, for model.pipeline_split=cost. Throws UserError for a row that cannot be used.
PartCosts costs_on_first_rows(const TrainConfig& config, const ModelConfig& model,
                              const Processor& processor, const Dataset& dataset);

/// Whether grid's rank counts its parameter of that name in sums over grid.model: one that all
/// tensor ranks have whole counts once, and so does a tied embedding, which is the first stage's.
/// `shared_out`: in sums over grid.world of what each rank has its own part of.
bool is_counted(const Grid& grid, std::string_view name, bool shared_out = false);

}  // namespace trestle
