// The order of passes in a pipeline: that it ends, what it keeps and how long it waits, for every
// size.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "parallel/schedule.h"

namespace trestle {
namespace {

using Kind = PipelinePass::Kind;
using Stages = std::vector<std::vector<PipelinePass>>;

Stages all_stages(const Topology& topology, int64_t micro_batches) {
  Stages stages;
  for (int64_t stage = 0; stage < topology.pipeline; ++stage) {
    stages.push_back(pipeline_schedule(topology, stage, micro_batches));
  }
  return stages;
}

std::string text(const std::vector<PipelinePass>& passes) {
  std::string all;
  for (const PipelinePass& pass : passes) {
    all += pass.kind == Kind::kForward ? " F" : " B";
    all += std::to_string(pass.micro_batch) + "." + std::to_string(pass.chunk);
  }
  return all;
}

// Narayanan et al. 2021, figure 4, of 2 stages.
std::vector<StageTime> alike(const Topology& topology, double forward, double backward) {
  return std::vector<StageTime>(static_cast<size_t>(topology.pipeline), {forward, backward});
}

TEST(Schedule, OfTwoStages) {
  const Topology plain{.pipeline = 2};
  EXPECT_EQ(text(pipeline_schedule(plain, 0, 3)), " F0.0 F1.0 B0.0 F2.0 B1.0 B2.0");
  EXPECT_EQ(text(pipeline_schedule(plain, 1, 3)), " F0.1 B0.1 F1.1 B1.1 F2.1 B2.1");
  const Topology twice{.pipeline = 2, .virtual_pipeline = 2};
  EXPECT_EQ(text(pipeline_schedule(twice, 1, 2)), " F0.1 F1.1 F0.3 B0.3 F1.3 B1.3 B0.1 B1.1");
  // As of four, without the fourth.
  EXPECT_EQ(text(pipeline_schedule(twice, 0, 3)),
            " F0.0 F1.0 F0.2 F1.2 F2.0 B0.2 B1.2 F2.2 B0.0 B1.0 B2.2 B2.0");
}

// fn(topology, micro-batches) for up to 8 stages of 4 chunks, and 32 micro-batches.
template <class Function>
void for_all_sizes(const Function& fn) {
  for (int64_t pipeline = 1; pipeline <= 8; ++pipeline) {
    for (int64_t chunks = 1; chunks <= (pipeline > 1 ? 4 : 1); ++chunks) {
      for (int64_t n = 1; n <= 32; ++n) {
        const Topology topology{.pipeline = pipeline, .virtual_pipeline = chunks};
        SCOPED_TRACE(to_string(topology) + ", micro-batches " + std::to_string(n));
        fn(topology, n);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(Schedule, TakesEveryPassOnceAndForwardFirst) {
  for_all_sizes([](const Topology& topology, int64_t n) {
    std::set<std::tuple<int64_t, int64_t>> forward, backward;
    const Stages stages = all_stages(topology, n);
    for (size_t stage = 0; stage < stages.size(); ++stage) {
      for (const PipelinePass& pass : stages[stage]) {
        ASSERT_EQ(static_cast<size_t>(pass.chunk % topology.pipeline), stage);
        const std::tuple which(pass.micro_batch, pass.chunk);
        if (pass.kind == Kind::kForward) {
          ASSERT_TRUE(forward.insert(which).second);
        } else {
          ASSERT_TRUE(forward.contains(which) && backward.insert(which).second);
        }
      }
    }
    ASSERT_EQ(std::ssize(backward), n * topology.chunks());
    ASSERT_EQ(forward, backward);
    ASSERT_EQ(std::get<0>(*backward.rbegin()), n - 1);
  });
}

bool divides(const Topology& topology, int64_t n) {
  return topology.virtual_pipeline == 1 || n % topology.pipeline == 0;
}

TEST(Schedule, EndsAndWaitsAsTheFormulaSays) {
  for_all_sizes([](const Topology& topology, int64_t n) {
    const double forward = 1, backward = 2;
    const auto line =
        timeline(topology, all_stages(topology, n), alike(topology, forward, backward));
    ASSERT_TRUE(line) << "stages wait for each other for ever";
    const double work = static_cast<double>(n * topology.virtual_pipeline) * (forward + backward);
    const double waits = 1 - work / line->length;
    if (divides(topology, n)) {
      ASSERT_NEAR(waits, bubble(topology, n), 1e-12);
    } else {
      ASSERT_LE(waits, bubble(topology, n) + 1e-12);
    }
  });
}

TEST(Schedule, KeepsAsManyActivationsAsTheFormulaSays) {
  for_all_sizes([](const Topology& topology, int64_t n) {
    for (int64_t stage = 0; stage < topology.pipeline; ++stage) {
      int64_t now = 0, most = 0;
      for (const PipelinePass& pass : pipeline_schedule(topology, stage, n)) {
        now += pass.kind == Kind::kForward ? 1 : -1;
        most = std::max(most, now);
      }
      if (divides(topology, n)) {
        ASSERT_EQ(most, most_in_flight(topology, stage, n)) << "stage " << stage;
      } else {
        ASSERT_LE(most, most_in_flight(topology, stage, n)) << "stage " << stage;
      }
    }
  });
}

// Messages of one kind from one stage to another are taken in the order in which they are sent,
// which is what pairs them where they bear no names.
TEST(Schedule, MessagesOfAKindKeepTheirOrder) {
  for_all_sizes([](const Topology& topology, int64_t n) {
    const Stages stages = all_stages(topology, n);
    using Channel = std::tuple<Kind, int64_t, int64_t>;
    std::map<Channel, std::vector<std::tuple<int64_t, int64_t>>> sent, taken;
    for (int64_t stage = 0; stage < topology.pipeline; ++stage) {
      for (const PipelinePass& pass : stages[static_cast<size_t>(stage)]) {
        const bool forward = pass.kind == Kind::kForward;
        const int64_t from = forward ? pass.chunk - 1 : pass.chunk + 1;
        const int64_t to = forward ? pass.chunk + 1 : pass.chunk - 1;
        if (to >= 0 && to < topology.chunks()) {
          sent[{pass.kind, stage, to % topology.pipeline}].emplace_back(pass.micro_batch, to);
        }
        if (from >= 0 && from < topology.chunks()) {
          taken[{pass.kind, from % topology.pipeline, stage}].emplace_back(pass.micro_batch,
                                                                           pass.chunk);
        }
      }
    }
    ASSERT_EQ(sent, taken);
  });
}

TEST(Schedule, KeepsAsManyPassesAsItSays) {
  EXPECT_EQ(most_in_flight({.pipeline = 4}, 0, 8), 4);
  EXPECT_EQ(most_in_flight({.pipeline = 4}, 3, 8), 1);
  EXPECT_EQ(most_in_flight({.pipeline = 4}, 0, 2), 2);
  EXPECT_EQ(most_in_flight({.pipeline = 4, .virtual_pipeline = 2}, 0, 8), 2 * 3 + 4 + 1);
  EXPECT_EQ(most_in_flight({.pipeline = 4, .virtual_pipeline = 2}, 0, 4), 8);
}

TEST(Schedule, StagesThatWaitForEachOtherAreSeen) {
  const Topology topology{.pipeline = 2};
  Stages stages = all_stages(topology, 2);
  std::swap(stages[0].front(), stages[0].back());
  EXPECT_FALSE(timeline(topology, stages, alike(topology, 1, 2)));
}

}  // namespace
}  // namespace trestle
