#include "planner/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "base/bytes.h"
#include "base/error.h"

namespace trestle {

namespace {

// Of `all`, or the one that is fixed.
std::vector<int64_t> chosen(const std::optional<int64_t>& fixed, std::vector<int64_t> all) {
  return fixed ? std::vector<int64_t>{*fixed} : std::move(all);
}

// What the fixed axes alone can be told.
void require_fixed(const PlannedRun& run, const Machine& machine, const FixedAxes& fixed) {
  Topology asked{.tensor = fixed.tensor.value_or(1),
                 .context = fixed.context.value_or(1),
                 .pipeline = fixed.pipeline.value_or(1),
                 .virtual_pipeline = fixed.virtual_pipeline.value_or(1)};
  if (!fixed.pipeline) asked.virtual_pipeline = 1;
  require_topology(asked, run.shape.sizes());
  over_world(asked, machine.ranks);
  if (fixed.sequence_parallel.value_or(false) && fixed.tensor == 1) {
    asked.sequence_parallel = true;
    require_topology(asked, run.shape.sizes());
  }
}

bool is_possible(const PlannedRun& run, const Topology& topology) {
  const int64_t forwards = run.config.train.global_batch_size / run.samples_of_micro_batch();
  if (topology.data > std::max<int64_t>(1, forwards)) return false;
  // Two pieces of a sequence for each context rank.
  if (topology.context > 1 && run.sample.tokens < 2 * topology.context) return false;
  // The interleaved schedule goes by rounds of as many micro-batches as there are stages.
  return topology.virtual_pipeline == 1 || run.micro_batches(topology) % topology.pipeline == 0;
}

std::vector<Topology> possible(const PlannedRun& run, const Machine& machine,
                               const FixedAxes& fixed) {
  const ShardedSizes sizes = run.shape.sizes();
  std::vector<Topology> all;
  const std::vector<int64_t> world = divisors(machine.ranks);
  for (const int64_t tensor : chosen(fixed.tensor, tensor_sizes(sizes))) {
    for (const int64_t context : chosen(fixed.context, world)) {
      for (const int64_t pipeline : chosen(fixed.pipeline, world)) {
        if (machine.ranks % (tensor * context * pipeline) != 0 || pipeline > sizes.layers) continue;
        for (const int64_t v : virtual_pipeline_sizes(sizes, pipeline)) {
          if (v != fixed.virtual_pipeline.value_or(v)) continue;
          Topology topology{
              .tensor = tensor, .context = context, .pipeline = pipeline, .virtual_pipeline = v};
          // It halves nothing but memory.
          topology.sequence_parallel = tensor > 1 && fixed.sequence_parallel.value_or(true);
          topology = over_world(topology, machine.ranks);
          if (is_possible(run, topology)) all.push_back(topology);
        }
      }
    }
  }
  return all;
}

std::string gb(int64_t bytes) {
  return fmt::format("{:.1f} GB", gigabytes(static_cast<uint64_t>(std::max<int64_t>(0, bytes))));
}

std::string parts_of(const MemoryPlan& memory) {
  std::vector<std::pair<int64_t, const char*>> parts = {
      {memory.weights, "weights"},     {memory.gradients, "gradients"},
      {memory.optimizer, "optimizer"}, {memory.activations, "activations"},
      {memory.logits, "logits"},       {memory.communication, "buffers"},
      {memory.samples, "samples"},     {memory.process, "process"}};
  std::ranges::stable_sort(parts, std::greater(), &std::pair<int64_t, const char*>::first);
  return fmt::format("{} {}, {} {}", parts[0].second, gb(parts[0].first), parts[1].second,
                     gb(parts[1].first));
}

// Keys that take less, where they are not at their least.
std::string keys_that_take_less(const PlannedRun& run) {
  std::vector<std::string> keys;
  const TrainConfig& config = run.config;
  if (config.model.recompute_granularity != "full") {
    keys.emplace_back("model.recompute_granularity=full");
  }
  if (config.train.micro_batch_size > 1) keys.emplace_back("train.micro_batch_size=1");
  if (!config.trains_adapters()) keys.emplace_back("peft.scheme=lora");
  if (config.trains_adapters() && config.peft.base_bits != "4")
    keys.emplace_back("peft.base_bits=4");
  keys.emplace_back("a smaller model.seq_length");
  std::string text;
  for (const std::string& key : keys) text += (text.empty() ? "" : ", ") + key;
  return text + ", or more ranks";
}

const Candidate* find(const std::vector<Candidate>& all, const auto& is) {
  const auto found = std::ranges::find_if(all, is);
  return found == all.end() ? nullptr : &*found;
}

}  // namespace

std::vector<Candidate> all_topologies(const PlannedRun& run, const Machine& machine,
                                      const FixedAxes& fixed) {
  require_fixed(run, machine, fixed);
  std::vector<Candidate> all;
  for (const Topology& topology : possible(run, machine, fixed)) {
    Candidate one{topology, memory_of(run, topology), step_of(run, topology, machine), false};
    one.fits = one.memory.total() <= machine.memory_bytes;
    all.push_back(std::move(one));
  }
  if (all.empty()) {
    user_error(
        "no topology gives {} ranks work: a step has {} forwards (train.global_batch_size={} by "
        "{}), and every data rank takes one at least; ask for fewer ranks, a larger "
        "train.global_batch_size, or leave axes free",
        machine.ranks, run.config.train.global_batch_size / run.samples_of_micro_batch(),
        run.config.train.global_batch_size, run.samples_of_micro_batch());
  }
  std::ranges::stable_sort(all, {}, [&](const Candidate& one) {
    const Topology& t = one.topology;
    return std::tuple(!one.fits,
                      one.fits ? one.step.seconds : static_cast<double>(one.memory.total()),
                      one.step.traffic.total(), t.tensor * t.context * t.pipeline);
  });
  return all;
}

std::vector<std::string> reasons(const std::vector<Candidate>& all, const PlannedRun& run,
                                 const Machine& machine) {
  const Candidate& best = all.front();
  if (!best.fits) {
    return {
        fmt::format("none fits: {} needs least, {} of {} at {}, {} too many; {} would take less",
                    to_string(best.topology), gb(best.memory.total()), gb(machine.memory_bytes),
                    best.memory.moment, gb(best.memory.total() - machine.memory_bytes),
                    keys_that_take_less(run))};
  }
  std::vector<std::string> lines;
  const Topology& t = best.topology;
  const auto fitting = std::ranges::count_if(all, &Candidate::fits);
  lines.push_back(
      fmt::format("take {}: the fastest of {} that fit, {:.3g} s a step and {:.4g} "
                  "tokens a second; {} of {} at {} ({})",
                  to_string(t), fitting, best.step.seconds, best.step.tokens_a_second(),
                  gb(best.memory.total()), gb(machine.memory_bytes), best.memory.moment,
                  parts_of(best.memory)));
  if (t.tensor * t.context * t.pipeline == 1) {
    lines.emplace_back(
        "  the whole model fits on a rank, and sharing out samples alone sends least");
  } else if (const Candidate* plain = find(all, [](const Candidate& one) {
               return one.topology.tensor * one.topology.context * one.topology.pipeline == 1;
             })) {
    lines.push_back(
        plain->fits
            ? fmt::format("  data ranks alone take {:.3g} s a step", plain->step.seconds)
            : fmt::format("  data ranks alone do not fit: {} at {} ({}), {} too many",
                          gb(plain->memory.total()), plain->memory.moment, parts_of(plain->memory),
                          gb(plain->memory.total() - machine.memory_bytes)));
  }
  const StepPlan& step = best.step;
  const std::pair<double, const char*> costs[] = {{step.tensor, "tensor ranks' sums"},
                                                  {step.context, "keys and values"},
                                                  {step.pipeline, "sending between stages"},
                                                  {step.bubble, "waiting of stages"},
                                                  {step.data, "gradients"},
                                                  {step.optimizer, "the update"}};
  const auto& most = *std::ranges::max_element(costs, {}, &std::pair<double, const char*>::first);
  lines.push_back(
      fmt::format("  of a step {:.0f} % are products; the most of the rest is {}, {:.1f} %",
                  100 * step.compute / step.seconds, most.second, 100 * most.first / step.seconds));
  return lines;
}

}  // namespace trestle
