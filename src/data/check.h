// A data set looked at before money is spent on it. Called by `trestle data check`.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/datasets.h"
#include "data/overlong.h"
#include "data/processor.h"

namespace trestle {

/// What dataset.overlong would make of the samples over model.seq_length.
struct OverlongReport {
  Overlong policy;
  /// Samples by what happens to them; a refused one stops the run.
  int64_t refused = 0, dropped = 0, shrunk = 0, cut = 0;
  /// Of all samples that can be used: targets, those among them that are </s>, and the trained
  /// turns of the assistant, that are in what is trained on.
  int64_t targets = 0, eos = 0, turns = 0;
};

struct DataReport {
  int64_t rows = 0;
  /// Ids of each sample, in the order of the rows.
  std::vector<int64_t> lengths;
  int64_t targets = 0;
  /// Samples without a target, or with no id that is not one.
  std::vector<int64_t> untrained, all_trained;
  /// Turns of the assistant that are trained, and those of them whose </s> is a target.
  int64_t turns = 0, turns_with_eos = 0;
  int64_t images = 0, text_only = 0, image_tokens = 0;
  int64_t largest_width = 0, largest_height = 0;
  /// "FILE row N: ...": rows that cannot be used, the first `kept_errors`.
  std::vector<std::string> errors;
  int64_t bad_rows = 0;
  /// What is no error and may be a mistake, and in how many rows: keys that nobody knows, places of
  /// pictures in a text that are words here.
  std::map<std::string, int64_t> notes;
  /// One a policy, in the order of overlong_names().
  std::vector<OverlongReport> overlong;

  int64_t tokens() const;
  double target_share() const;
  /// The length that a share of the samples does not pass.
  int64_t quantile(double share) const;
  int64_t longer_than(int64_t length) const;
};

/// Processes the first `rows` samples (0: all) as training would, those over `seq_length` tokens
/// under every policy. `on_row` is told how many are done.
DataReport check_data(const Dataset& dataset, const Processor& processor, int64_t rows,
                      int64_t seq_length, const std::function<void(int64_t)>& on_row = {});

}  // namespace trestle
