// Which rank of how many a process is, by the variables of whoever started it: `trestle launch` and
// torchrun, or srun. Called by finetune before anything is built.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace trestle {

/// One process is rank 0 of 1 and has no address.
struct RankEnvironment {
  int64_t rank = 0;
  int64_t size = 1;
  /// Among the ranks of its node.
  int64_t local_rank = 0;
  int64_t local_size = 1;
  /// Where the store is.
  std::string master_address;
  int port = 0;
  /// How often the ranks were started anew: keys of the store are under it.
  int64_t restart = 0;
  std::string run_id;
  /// The launcher holds the store, and rank 0 is a client of it as all the others are.
  bool agent_store = false;
};

/// What getenv returns: nullptr where the variable is not set.
using Getenv = std::function<const char*(const char*)>;

/// torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT,
/// TORCHELASTIC_*) where RANK, WORLD_SIZE or LOCAL_RANK is set, else those of a step of several
/// tasks that srun started without a terminal of its own, else one process. An empty variable is
/// one that is not set. Throws UserError, which names the variable and its value, for what is set
/// by half or makes no sense.
RankEnvironment rank_environment(const Getenv& get);
/// Of this process.
RankEnvironment rank_environment();

/// "node03" of Slurm's "node[03-05,7],other": the first host of a list. Throws UserError for a list
/// that is none; `variable` is named.
std::string first_host(std::string_view variable, std::string_view list);

/// 4 of node 1 in Slurm's "3,4(x2)". Throws UserError likewise.
int64_t tasks_of_node(std::string_view variable, std::string_view list, int64_t node);

}  // namespace trestle
