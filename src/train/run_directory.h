// A run's directory before the run: where to go on from, and what must not be written over. Called
// by the trainer.
#pragma once

#include <filesystem>

#include "train/config.h"

namespace trestle {

/// checkpoint.load=auto becomes checkpoint.save where that holds a checkpoint, and nothing where it
/// does not. Throws UserError, before anything is written, where checkpoint.save holds a run that
/// is not the one to go on with, or a newer iteration than the one to go on from, and where it is
/// the directory of the base model, of the adapter that it starts from, or one above them.
void settle_run_directory(CheckpointOptions& checkpoint, const std::string& adapter_path);

}  // namespace trestle
