// The cores that a process may use, shared out over the ranks of a node. Called by the supervisor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace trestle {

/// What a rank computes on.
struct RankCores {
  /// The logical cores that it is pinned to; empty where it is not.
  std::vector<int> pinned;
  /// OMP_NUM_THREADS: of all ranks the same, since sums that are made in other pieces differ.
  int64_t threads = 1;
};

/// The logical cores of this process's affinity mask (a cpuset's too), those of one core and of one
/// socket side by side.
std::vector<int> allowed_cores();

/// How many cores' time the cgroups of this process have (cpu.max, cpu.cfs_quota_us), rounded down
/// and at least 1; nothing where no quota is set. `root` is `/`.
std::optional<int64_t> core_quota(const std::filesystem::path& root);

/// Consecutive shares of `cores`, whose sizes differ by at most one; no pins where ranks outnumber
/// cores. `quota` bounds the threads of all ranks together.
std::vector<RankCores> share_cores(const std::vector<int>& cores, std::optional<int64_t> quota,
                                   int64_t ranks);

}  // namespace trestle
