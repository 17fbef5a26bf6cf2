#include "planner/report.h"

#include <fmt/format.h>

#include <algorithm>

namespace trestle {

namespace {

double gb(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

std::string stages_text(const Topology& topology) {
  return topology.virtual_pipeline == 1
             ? std::to_string(topology.pipeline)
             : fmt::format("{}x{}", topology.pipeline, topology.virtual_pipeline);
}

std::string how_it_trains(const PlannedRun& run) {
  const TrainConfig& config = run.config;
  if (!config.trains_adapters()) return "full fine-tuning";
  const std::string bits = config.peft.base_bits == "16"
                               ? ""
                               : fmt::format(" on a base in {} bits", config.peft.base_bits);
  return fmt::format("{} of rank {}{}", config.peft.scheme, config.peft.dim,
                     config.peft.base_bits == "fp8" ? " on a base in fp8" : bits);
}

std::string rate(const char* what, const Rate& rate, const char* unit) {
  return fmt::format("{} {}{} ({})", what, rate_text(rate.value), unit, to_string(rate.origin));
}

std::string row_of(const Candidate& one, const Machine& machine, bool best) {
  const Topology& t = one.topology;
  const MemoryPlan& memory = one.memory;
  const StepPlan& step = one.step;
  const int64_t other = memory.logits + memory.communication + memory.samples + memory.process;
  std::string row = fmt::format(
      "{} {:>3} {:>3} {:>5} {:>5} {:>3} {:>8.2f} {:>8.2f} {:>7.2f} {:>7.2f} {:>8.2f} {:>7.2f} "
      "{:>9.3g} {:>9.4g} {:>5.1f} {:>6.1f} {:>8.3g}",
      best ? '*' : ' ', t.tensor, t.context, stages_text(t), t.data,
      t.sequence_parallel ? "yes" : "", gb(memory.total()), gb(memory.weights),
      gb(memory.gradients), gb(memory.optimizer), gb(memory.activations), gb(other), step.seconds,
      step.tokens_a_second(), 100 * step.utilization(machine), 100 * step.bubble_share,
      step.traffic.total() / 1e9);
  if (!one.fits)
    row += fmt::format("  {:.2f} GB too many", gb(memory.total() - machine.memory_bytes));
  return row + "\n";
}

Json topology_json(const Topology& t) {
  return {{"tensor", t.tensor},     {"context", t.context},
          {"pipeline", t.pipeline}, {"virtual_pipeline", t.virtual_pipeline},
          {"data", t.data},         {"sequence_parallel", t.sequence_parallel}};
}

Json memory_json(const MemoryPlan& memory) {
  return {{"total", memory.total()},
          {"weights", memory.weights},
          {"gradients", memory.gradients},
          {"optimizer", memory.optimizer},
          {"activations", memory.activations},
          {"logits", memory.logits},
          {"communication", memory.communication},
          {"samples", memory.samples},
          {"process", memory.process},
          {"stage", memory.stage},
          {"moment", memory.moment}};
}

Json step_json(const StepPlan& step, const Machine& machine) {
  return {{"seconds", step.seconds},
          {"compute_seconds", step.compute},
          {"tensor_seconds", step.tensor},
          {"context_seconds", step.context},
          {"pipeline_seconds", step.pipeline},
          {"bubble_seconds", step.bubble},
          {"gradient_seconds", step.data},
          {"optimizer_seconds", step.optimizer},
          {"micro_batches", step.micro_batches},
          {"bubble_share", step.bubble_share},
          {"flops", step.flops},
          {"tokens", step.tokens},
          {"tokens_a_second", step.tokens_a_second()},
          {"utilization", step.utilization(machine)},
          {"sent_bytes",
           {{"tensor", step.traffic.tensor},
            {"context", step.traffic.context},
            {"pipeline", step.traffic.pipeline},
            {"gradients", step.traffic.data}}}};
}

Json rate_json(const Rate& rate) {
  return {{"value", rate.value}, {"origin", to_string(rate.origin)}};
}

}  // namespace

std::string plan_heading(const PlannedRun& run, const Machine& machine) {
  const TextConfig& text = run.shape.model().text;
  const SampleShape& sample = run.sample;
  std::string out = fmt::format(
      "model    {:.2f} billion parameters ({} layers of {}), {:.1f} million train: {}, {}, "
      "recompute {}\n",
      static_cast<double>(run.shape.parameters()) / 1e9, text.num_layers, text.hidden_size,
      static_cast<double>(run.shape.trained()) / 1e6, how_it_trains(run),
      run.config.model.params_dtype, run.config.model.recompute_granularity);
  out += fmt::format("samples  {} a step, {} a forward, each of {} tokens with {} targets",
                     run.config.train.global_batch_size, run.samples_of_micro_batch(),
                     sample.tokens, sample.targets);
  if (sample.pictures > 0) {
    out += fmt::format(" and {} picture{} of {} x {}", sample.pictures,
                       sample.pictures == 1 ? "" : "s", sample.width, sample.height);
  }
  out += fmt::format("\nmachine  {} {}{} of {:.4g} GB ({}); {}, {}", machine.ranks,
                     machine.on_card ? "card" : "process",
                     machine.ranks == 1 ? ""
                     : machine.on_card  ? "s"
                                        : "es",
                     gb(machine.memory_bytes), to_string(machine.memory_origin),
                     rate("products", machine.flops, "FLOP/s"),
                     rate("memory", machine.bandwidth, "B/s"));
  if (machine.ranks > 1) out += ", " + rate("to a neighbour", machine.link, "B/s");
  if (machine.ranks > machine.ranks_per_node) {
    out += fmt::format(", {} a node, {}", machine.ranks_per_node,
                       rate("between nodes", machine.network, "B/s"));
  }
  return out + "\n";
}

std::string plan_table(const std::vector<Candidate>& all, const Machine& machine, int64_t rows) {
  std::string out = fmt::format(
      "  {:>3} {:>3} {:>5} {:>5} {:>3} {:>8} {:>8} {:>7} {:>7} {:>8} {:>7} {:>9} {:>9} {:>5} {:>6} "
      "{:>8}\n",
      "TP", "CP", "PP", "DP", "SP", "GB", "weights", "grads", "optim", "activ", "other", "s/step",
      "tokens/s", "MFU", "bubble", "GB sent");
  const auto count = rows == 0 ? std::ssize(all) : std::min(rows, std::ssize(all));
  for (int64_t i = 0; i < count; ++i) {
    const Candidate& one = all[static_cast<size_t>(i)];
    out += row_of(one, machine, i == 0 && one.fits);
  }
  if (count < std::ssize(all))
    out += fmt::format("  and {} more (--rows 0)\n", std::ssize(all) - count);
  return out;
}

Json plan_json(const std::vector<Candidate>& all, const PlannedRun& run, const Machine& machine) {
  const SampleShape& sample = run.sample;
  Json out = {{"parameters", run.shape.parameters()},
              {"trained", run.shape.trained()},
              {"sample",
               {{"tokens", sample.tokens},
                {"targets", sample.targets},
                {"pictures", sample.pictures},
                {"width", sample.width},
                {"height", sample.height}}},
              {"machine",
               {{"cards", machine.on_card},
                {"ranks", machine.ranks},
                {"ranks_per_node", machine.ranks_per_node},
                {"memory_bytes", machine.memory_bytes},
                {"flops", rate_json(machine.flops)},
                {"bandwidth", rate_json(machine.bandwidth)},
                {"link", rate_json(machine.link)},
                {"network", rate_json(machine.network)}}},
              {"take", all.front().fits ? topology_json(all.front().topology) : Json(nullptr)},
              {"reasons", reasons(all, run, machine)},
              {"topologies", Json::array()}};
  for (const Candidate& one : all) {
    out["topologies"].push_back({{"topology", topology_json(one.topology)},
                                 {"fits", one.fits},
                                 {"memory", memory_json(one.memory)},
                                 {"step", step_json(one.step, machine)}});
  }
  return out;
}

}  // namespace trestle
