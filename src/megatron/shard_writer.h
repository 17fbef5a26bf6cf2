// Ranks that write one Megatron checkpoint together, each a file of its own. Called by the run's
// snapshot.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "megatron/iteration.h"
#include "megatron/shard.h"
#include "parallel/group.h"

namespace trestle {

struct MegatronShards {
  /// What this rank writes: of all ranks together every element of every tensor, and none twice.
  std::vector<HeldTensor> tensors;
  /// Plain objects that MegatronCheckpoint::object(key) gives back; of rank 0 alone.
  std::map<std::string, Json> objects = {};
};

/// What a save adds to the iteration, whose directory it gets.
struct Finishing {
  std::function<void(const std::filesystem::path&)> add;
  /// It reads the iteration as a checkpoint, and so comes behind the mark that makes it one; else
  /// before, so that what is cut off before all is there is none.
  bool opens = false;
};

/// By all ranks of `world` at once, which share the file system and have the same `output`. Each
/// writes its data; when all have, rank 0 adds what there is one of, `finishing` included, and
/// gives the directory its name. A failure of any rank before that is an error on all (by_all())
/// and leaves nothing.
void write_megatron(const MegatronOutput& output, const MegatronShards& shards, const Group& world,
                    const Finishing& finishing = {});

}  // namespace trestle
