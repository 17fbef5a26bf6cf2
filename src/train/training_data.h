// What a run learns from, as its config says: one data set, or several blended by weight. Called by
// the trainer and `trestle finetune`.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/blend.h"
#include "recipes/config.h"
#include "run/checkpoint.h"

namespace trestle {

/// Throws UserError as make_dataset does.
std::unique_ptr<Dataset> make_training_data(const TrainConfig& config);

/// The key that names the data, and a SHA-256 of them (identity.h): of a blend of each set's files
/// and of its weight, its maker and their order, which stand under kBlendSets too.
std::map<std::string, std::string> content_of_training_data(const Dataset& dataset);
/// As RunIdentity::named_contents; reads the files once more.
std::map<std::string, std::string> named_content_of_training_data(const Dataset& dataset);
/// What an identity has of each set, "WEIGHT MAKER CONTENT;", of which its SHA-256 is.
constexpr const char* kBlendSets = "dataset.blend.sets";

/// Threads that prepare samples ahead: dataset.num_workers, or, where that is not set, as many as
/// the machine has cores for beside the thread that feeds a card, and none beside a step on the
/// CPU.
int64_t sample_workers(const TrainConfig& config, bool on_card, int64_t cores);

/// For messages: "dataset.path_or_dataset=PATH" is PATH, a blend "dataset.blend".
std::string name_of_training_data(const TrainConfig& config);

/// SHA-256 of that text, with the named_identity of each set, of a blend whose sets have the
/// weights of `parts`.
std::string named_content_of_blend(const BlendedDataset& blend,
                                   const std::vector<BlendPart>& parts);

/// A line a set: its files, and of a blend its share, its rows and how often the run takes them,
/// which goes on behind `progress`.
std::vector<std::string> describe_training_data(const TrainConfig& config, const Dataset& dataset,
                                                const RunProgress& progress = {});

/// "3, 7", and of a blend "row 3 of A, row 7 of B".
std::string row_names(const Dataset& dataset, const std::vector<int64_t>& rows);

}  // namespace trestle
