// Which topologies a model's sizes allow, and what is said of the others.
#include <gtest/gtest.h>

#include "../errors.h"
#include "parallel/plan.h"
#include "parallel/topology.h"

namespace trestle {
namespace {

// Ministral 3 3B.
constexpr ShardedSizes k3b{26, 32, 8, 9216, 131072};

TEST(Topology, TensorRanksDivideEveryCutSize) {
  EXPECT_EQ(tensor_sizes(k3b), (std::vector<int64_t>{1, 2, 4, 8}));
  EXPECT_NO_THROW(require_topology({.tensor = 8}, k3b));
  EXPECT_REFUSED(require_topology({.tensor = 3}, k3b),
                 "model.tensor_model_parallel_size=3 does not divide the model's 8 query groups; "
                 "use 1, 2, 4 or 8");
  EXPECT_REFUSED(require_topology({.tensor = 8}, {26, 32, 8, 9220, 131072}),
                 "9220 columns of the feed-forward layer; use 1, 2 or 4");
  EXPECT_REFUSED(require_topology({.tensor = 4}, {26, 32, 8, 9216, 131074}),
                 "131074 rows of the vocabulary; use 1 or 2");
  EXPECT_REFUSED(require_topology({.tensor = 0}, k3b), "tensor_model_parallel_size=0");
}

TEST(Topology, EveryStageHasLayersAndVirtualStagesAlikeMany) {
  EXPECT_NO_THROW(require_topology({.pipeline = 26}, k3b));
  EXPECT_NO_THROW(require_topology({.pipeline = 4}, k3b));
  EXPECT_REFUSED(require_topology({.pipeline = 27}, k3b), "pipeline_model_parallel_size=27",
                 "the model has 26; use 26 or less");
  EXPECT_NO_THROW(require_topology({.pipeline = 2, .virtual_pipeline = 13}, k3b));
  EXPECT_REFUSED(require_topology({.pipeline = 2, .virtual_pipeline = 3}, k3b),
                 "does not divide the model's 26 layers; use 1 or 13");
  EXPECT_REFUSED(require_topology({.virtual_pipeline = 2}, k3b), "leave it out");
  EXPECT_EQ(pipeline_sizes(k3b).size(), 26);
  EXPECT_EQ(pipeline_sizes({24, 32, 8, 9216, 131072}, 4), (std::vector<int64_t>{2, 3, 6}));
  EXPECT_EQ(virtual_pipeline_sizes(k3b, 4), (std::vector<int64_t>{1}));
}

TEST(Topology, SequenceParallelNeedsTensorRanks) {
  EXPECT_NO_THROW(require_topology({.tensor = 2, .sequence_parallel = true}, k3b));
  EXPECT_REFUSED(require_topology({.sequence_parallel = true}, k3b), "model.sequence_parallel",
                 "leave it out");
}

TEST(Topology, TheWorldIsTheProductOfItsAxes) {
  const Topology topology{.tensor = 2, .context = 3, .data = 5, .pipeline = 2};
  EXPECT_EQ(topology.world(), 60);
  EXPECT_NO_THROW(require_topology(topology, k3b, 60));
  EXPECT_REFUSED(require_topology(topology, k3b, 24), "is 60 ranks, but there are 24",
                 "would be 2");
  EXPECT_EQ(over_world(topology, 36).data, 3);
  EXPECT_REFUSED(over_world(topology, 16), "is 12 ranks", "does not divide the 16");
  EXPECT_EQ(to_string({.tensor = 2,
                       .data = 8,
                       .pipeline = 2,
                       .virtual_pipeline = 13,
                       .sequence_parallel = true}),
            "TP 2 CP 1 PP 2x13 DP 8 SP");
}

TEST(Topology, ChunksCoverTheLayersAsThePipelinePlanHasThem) {
  for (const int64_t stages : {1, 3, 4, 26}) {
    const Topology topology{.pipeline = stages};
    const PipelinePlan plan{stages, 26};
    int64_t next = 0;
    for (int64_t chunk = 0; chunk < stages; ++chunk) {
      const LayerRun run = layers_of_chunk(topology, 26, chunk);
      EXPECT_EQ(run.first, next);
      EXPECT_GE(run.size(), 26 / stages);
      EXPECT_LE(run.size(), (26 + stages - 1) / stages);
      for (int64_t layer = run.first; layer < run.last; ++layer) {
        EXPECT_EQ(plan.stage_of("language_model.decoder.layers." + std::to_string(layer) + ".x"),
                  chunk);
      }
      next = run.last;
    }
    EXPECT_EQ(next, 26);
  }
}

}  // namespace
}  // namespace trestle
