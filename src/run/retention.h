// checkpoint.most_recent_k and save_retain_interval: which checkpoints of a run go when it has
// saved another, and how, so that a kill leaves nothing that looks like one. Called by the saver.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "recipes/output_options.h"

namespace trestle {

struct Retention {
  /// Nothing: all.
  std::optional<int64_t> newest;
  /// Of multiples of it all are kept.
  std::optional<int64_t> interval;
};
/// save_retain_interval alone keeps one beside them, the last, as Megatron-LM does.
Retention retention_of(const CheckpointOptions& options);

/// What a run has just saved.
struct Saved {
  std::filesystem::path run;
  int64_t step = 0;
  /// Steps whose checkpoints are the best, now or as it was measured before.
  std::vector<int64_t> best = {};
  /// RunProgress::lineage: checkpoints that say another are another run's.
  std::string lineage = {};
};

/// Removes the run's own checkpoints up to the saved step but the newest ones, multiples of the
/// interval, the best, and the one that the tracker names. Returns a line for each that is left
/// because the run did not make it, or not all that is in it, or that cannot be removed; of those
/// that do not say which run made them one for all.
std::vector<std::string> remove_old_checkpoints(const Saved& saved, const Retention& retention);

/// Ends removals that a kill cut short, and removes checkpoints whose writing it did. Returns a
/// line for each that is left because it has files that are not known to be its own.
std::vector<std::string> remove_remains(const std::filesystem::path& run);

}  // namespace trestle
