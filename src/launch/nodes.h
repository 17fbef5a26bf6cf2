// What the launchers of several nodes tell one another, by keys of a TCPStore that the first holds:
// who is ready, whose rank failed first, that all shall stop. A thread talks to the store, so that
// a network that hangs holds up no signal. The first holds another store for the ranks, in each
// round a new one, since torch.distributed finds the last round's keys in an old one. Held by the
// supervisor.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "launch/endpoint.h"

namespace trestle {

struct NodeOptions {
  int64_t nodes = 1;
  int64_t node = 0;
  int64_t ranks_per_node = 1;
  /// Needed where there are several nodes.
  std::optional<Endpoint> endpoint = {};
  std::string run_id = "none";
  int64_t max_restarts = 0;
  /// For the others to come.
  std::chrono::seconds join_timeout{600};
};

/// How a rank ended that ended badly.
struct Failure {
  /// Of all ranks; -1: the node itself is gone.
  int64_t rank = -1;
  int64_t node = 0;
  int status = 0;
  int signal = 0;

  bool operator==(const Failure&) const = default;
};

class Nodes {
 public:
  /// Of one round of ranks, as far as it is known here.
  struct News {
    /// MASTER_PORT of the ranks, once every node is ready to start its own; 0 before.
    int port = 0;
    /// Those of every node have ended well.
    bool all_done = false;
    /// The first that any node told.
    std::optional<Failure> failed = {};
    /// Of any node, 0 for none.
    int stop = 0;
    /// Why the store can no longer be asked.
    std::string lost;

    bool operator==(const News&) const = default;
  };

  /// Returns when all have joined. Throws UserError where they were started with other flags,
  /// MachineError after the timeout.
  explicit Nodes(const NodeOptions& options);
  /// Says that this node goes, and waits a few seconds until the others know how the run ended.
  ~Nodes();
  Nodes(const Nodes&) = delete;
  Nodes& operator=(const Nodes&) = delete;

  int64_t first_rank() const { return first_rank_; }
  int64_t all_ranks() const { return all_ranks_; }
  /// Where the nodes meet; its host is MASTER_ADDR of the ranks.
  const Endpoint& endpoint() const { return endpoint_; }

  /// Ready for round `restart`, from 0: those of the one before have ended. Throws MachineError
  /// where the port of a single node is taken.
  void ready(int64_t restart);
  void fail(const Failure& failure);
  /// What failed here speaks of others: a node that falls silent now is given up sooner.
  void suspect();
  void stop(int signal);
  void done();
  News news() const;
  /// Readable where there may be news; emptied by news().
  int descriptor() const;

 private:
  struct Shared;

  void join(const NodeOptions& options);

  std::shared_ptr<Shared> shared_;
  Endpoint endpoint_;
  int64_t first_rank_ = 0, all_ranks_ = 0;
};

}  // namespace trestle
