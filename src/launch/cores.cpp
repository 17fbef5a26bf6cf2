#include "launch/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>

#include "base/number.h"

namespace trestle {

namespace {

namespace fs = std::filesystem;

// More than any machine has; the kernel refuses a mask that is smaller than its own.
constexpr int kMostCores = 1 << 16;

// Of the kernel's small files: their first word as a number, or nothing.
std::optional<int64_t> number_in(const fs::path& path, int at = 0) {
  std::ifstream file(path);
  std::string word;
  for (int i = 0; i <= at; ++i) file >> word;
  int64_t number = 0;
  if (!file || !number_problem(word, number).empty()) return std::nullopt;
  return number;
}

std::optional<int64_t> whole_cores(std::optional<int64_t> quota, std::optional<int64_t> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;  // "max", -1
  return std::max<int64_t>(*quota / *period, 1);
}

void take_less(std::optional<int64_t>& least, std::optional<int64_t> other) {
  if (other && (!least || *other < *least)) least = other;
}

// Of a cgroup and those above it, as far as `mount`.
std::optional<int64_t> quota_of(const fs::path& mount, const fs::path& group) {
  std::optional<int64_t> least;
  for (fs::path at = group.relative_path();; at = at.parent_path()) {
    const fs::path folder = mount / at;
    take_less(least, whole_cores(number_in(folder / "cpu.max"), number_in(folder / "cpu.max", 1)));
    take_less(least, whole_cores(number_in(folder / "cpu.cfs_quota_us"),
                                 number_in(folder / "cpu.cfs_period_us")));
    if (at.empty()) return least;
  }
}

bool has_word(const std::string& list, std::string_view word) {
  std::istringstream words(list);
  for (std::string each; std::getline(words, each, ',');) {
    if (each == word) return true;
  }
  return false;
}

}  // namespace

std::vector<int> allowed_cores() {
  cpu_set_t* mask = CPU_ALLOC(kMostCores);
  const size_t bytes = CPU_ALLOC_SIZE(kMostCores);
  std::vector<int> cores;
  if (mask != nullptr && ::sched_getaffinity(0, bytes, mask) == 0) {
    for (int core = 0; core < kMostCores; ++core) {
      if (CPU_ISSET_S(static_cast<size_t>(core), bytes, mask)) cores.push_back(core);
    }
  }
  CPU_FREE(mask);
  const auto place = [](int core) {
    const fs::path topology = "/sys/devices/system/cpu/cpu" + std::to_string(core) + "/topology";
    return std::tuple(number_in(topology / "physical_package_id"), number_in(topology / "core_id"),
                      core);
  };
  std::vector<decltype(place(0))> places;
  for (const int core : cores) places.push_back(place(core));
  std::ranges::sort(places);
  std::ranges::transform(places, cores.begin(), [](const auto& each) { return std::get<2>(each); });
  return cores;
}

std::optional<int64_t> core_quota(const fs::path& root) {
  std::ifstream file(root / "proc/self/cgroup");
  std::optional<int64_t> least;
  // "0::/group" of version 2, "4:cpu,cpuacct:/group" of version 1.
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path mount = root / "sys/fs/cgroup" / controllers;
    if (!controllers.empty() && !has_word(controllers, "cpu")) continue;
    take_less(least, quota_of(mount, line.substr(second + 1)));
    if (!controllers.empty()) {
      take_less(least, quota_of(root / "sys/fs/cgroup/cpu", line.substr(second + 1)));
    }
  }
  return least;
}

std::vector<RankCores> share_cores(const std::vector<int>& cores, std::optional<int64_t> quota,
                                   int64_t ranks) {
  const auto count = static_cast<int64_t>(cores.size());
  const int64_t usable = std::min(count, quota.value_or(count));
  std::vector<RankCores> shares(static_cast<size_t>(ranks));
  for (int64_t rank = 0; rank < ranks; ++rank) {
    RankCores& share = shares[static_cast<size_t>(rank)];
    share.threads = std::max<int64_t>(usable / ranks, 1);
    if (ranks > count) continue;
    share.pinned.assign(cores.begin() + rank * count / ranks,
                        cores.begin() + (rank + 1) * count / ranks);
  }
  return shares;
}

}  // namespace trestle
