#include "parallel/schedule.h"

#include <algorithm>
#include <map>

namespace trestle {

namespace {

using Kind = PipelinePass::Kind;

bool interleaves(const Topology& topology) { return topology.virtual_pipeline > 1; }

// The micro-batches that the order is made for.
int64_t rounded_up(const Topology& topology, int64_t micro_batches) {
  if (!interleaves(topology)) return micro_batches;
  const int64_t group = topology.pipeline;
  return (micro_batches + group - 1) / group * group;
}

// Forward passes before the first backward pass.
int64_t warm_up(const Topology& topology, int64_t stage, int64_t passes) {
  const int64_t behind = topology.pipeline - stage - 1;
  const int64_t wanted = interleaves(topology)
                             ? 2 * behind + (topology.virtual_pipeline - 1) * topology.pipeline
                             : behind;
  return std::min(wanted, passes);
}

// The n-th pass of one kind at a stage.
PipelinePass nth(const Topology& topology, int64_t stage, Kind kind, int64_t n) {
  const int64_t group = interleaves(topology) ? topology.pipeline : 1;
  const int64_t in_groups = group * topology.virtual_pipeline;
  int64_t chunk = n % in_groups / group;
  if (kind == Kind::kBackward) chunk = topology.virtual_pipeline - 1 - chunk;
  return {kind, n / in_groups * group + n % group, chunk * topology.pipeline + stage};
}

// Whose result a pass waits for, if any; both are of one micro-batch.
std::optional<PipelinePass> awaited(const Topology& topology, const PipelinePass& pass) {
  if (pass.kind == Kind::kForward) {
    if (pass.chunk == 0) return std::nullopt;
    return PipelinePass{Kind::kForward, pass.micro_batch, pass.chunk - 1};
  }
  if (pass.chunk == topology.chunks() - 1) {
    return PipelinePass{Kind::kForward, pass.micro_batch, pass.chunk};
  }
  return PipelinePass{Kind::kBackward, pass.micro_batch, pass.chunk + 1};
}

}  // namespace

std::vector<PipelinePass> pipeline_schedule(const Topology& topology, int64_t stage,
                                            int64_t micro_batches) {
  const int64_t passes = rounded_up(topology, micro_batches) * topology.virtual_pipeline;
  const int64_t ahead = warm_up(topology, stage, passes);
  std::vector<PipelinePass> list;
  const auto add = [&](Kind kind, int64_t n) {
    const PipelinePass pass = nth(topology, stage, kind, n);
    if (pass.micro_batch < micro_batches) list.push_back(pass);
  };
  for (int64_t n = 0; n < ahead; ++n) add(Kind::kForward, n);
  for (int64_t n = 0; n < passes; ++n) {
    if (n + ahead < passes) add(Kind::kForward, n + ahead);
    add(Kind::kBackward, n);
  }
  return list;
}

int64_t most_in_flight(const Topology& topology, int64_t stage, int64_t micro_batches) {
  const int64_t passes = rounded_up(topology, micro_batches) * topology.virtual_pipeline;
  return std::min(
      {warm_up(topology, stage, passes) + 1, passes, micro_batches * topology.virtual_pipeline});
}

double bubble(const Topology& topology, int64_t micro_batches) {
  const auto work = static_cast<double>(micro_batches * topology.virtual_pipeline);
  const auto length = static_cast<double>(
      rounded_up(topology, micro_batches) * topology.virtual_pipeline + topology.pipeline - 1);
  return 1 - work / length;
}

std::optional<Timeline> timeline(const Topology& topology,
                                 const std::vector<std::vector<PipelinePass>>& stages,
                                 const std::vector<StageTime>& takes, double send) {
  Timeline line;
  line.ends.resize(stages.size());
  std::map<PipelinePass, double> done;
  bool moves = true;
  while (moves) {
    moves = false;
    for (size_t stage = 0; stage < stages.size(); ++stage) {
      std::vector<double>& ends = line.ends[stage];
      while (ends.size() < stages[stage].size()) {
        const PipelinePass& pass = stages[stage][ends.size()];
        double start = ends.empty() ? 0 : ends.back();
        if (const auto other = awaited(topology, pass)) {
          const auto found = done.find(*other);
          if (found == done.end()) break;
          const bool is_sent = other->chunk != pass.chunk;  // else this stage has made it
          start = std::max(start, found->second + (is_sent ? send : 0));
        }
        const StageTime& time = takes[stage];
        ends.push_back(start + (pass.kind == Kind::kForward ? time.forward : time.backward));
        done[pass] = ends.back();
        line.length = std::max(line.length, ends.back());
        moves = true;
      }
    }
  }
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    if (line.ends[stage].size() < stages[stage].size()) return std::nullopt;
  }
  return line;
}

}  // namespace trestle
