// The ranks of a run and how they meet: a store of c10d where each writes its address, and groups
// made of it. Made once by the program; threads of a test or a rehearsal can be ranks too.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/environment.h"
#include "parallel/group.h"
#include "parallel/journal.h"

namespace c10d {
class Store;
}

namespace trestle {

class Watchdog;

/// As torch.distributed's default for Gloo.
inline constexpr std::chrono::minutes kCollectiveTimeout{30};

class World {
 public:
  /// One rank, which is all there is.
  World();
  /// A rank of those that share `store`, all of them on this machine.
  World(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size,
        std::chrono::milliseconds timeout = kCollectiveTimeout);
  /// This process among those of a launcher: they meet at its store, or at one that rank 0 holds
  /// (TORCHELASTIC_USE_AGENT_STORE). Throws LostRank where that cannot be reached, or where the
  /// port is another's.
  explicit World(const RankEnvironment& environment,
                 std::chrono::milliseconds timeout = kCollectiveTimeout);
  World(World&&) noexcept;
  World& operator=(World&&) noexcept;
  ~World();

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  /// Among the ranks of its machine.
  int64_t local_rank() const { return local_rank_; }
  bool is_first() const { return rank_ == 0; }
  /// Of these ranks, in their order, of which this is one, on `device`'s backend. All of them make
  /// it, and in the same order as others that they share. `name` is for messages.
  Group group(const std::string& name, const std::vector<int64_t>& ranks, at::Device device) const;
  Journal& journal() const { return *journal_; }
  /// Looks after the other ranks while this lives (Watchdog); of one rank there is nothing to look
  /// after.
  void watch(std::function<void(const std::string& report)> found);

 private:
  c10::intrusive_ptr<c10d::Store> store_;
  int64_t rank_ = 0, size_ = 1, local_rank_ = 0;
  std::string address_;  // at which other ranks find this one
  std::chrono::milliseconds timeout_ = kCollectiveTimeout;
  std::shared_ptr<Journal> journal_;
  std::unique_ptr<Watchdog> watchdog_;
  /// How often a group of that name and those ranks has been made.
  mutable std::map<std::string, int64_t> made_;
};

/// Of c10d, whose warnings tell of errors that are thrown anyway, and with backtraces; but where
/// TORCH_CPP_LOG_LEVEL asks for them.
void silence_warnings();

/// fn(world) on `ranks` threads that are the ranks of one world on this machine, and what the first
/// that threw threw; the others' LostRank behind it are not told.
void run_ranks(int64_t ranks, const std::function<void(const World&)>& fn,
               std::chrono::milliseconds timeout = std::chrono::minutes(2));

}  // namespace trestle
