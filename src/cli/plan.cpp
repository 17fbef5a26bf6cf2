// `trestle plan`: for a run and a machine, what each topology takes of memory, time and traffic,
// and which to take. Nothing but a config.json is read.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "cli/commands.h"
#include "flags/number_flag.h"
#include "flags/run_choice.h"
#include "planner/report.h"
#include "planner/simulate.h"
#include "recipes/settle.h"

namespace trestle {

namespace {

struct PlanFlags {
  RunChoice run;
  /// As they are given, empty ones too.
  std::optional<std::string> memory, flops, bandwidth, link, network, picture_size, disk;
  int64_t cards = 0, processes = 0, cards_a_node = 0;
  int64_t tokens = 0, targets = 0, pictures = -1;
  int64_t rows = 12;
  bool json = false, simulate = false;
  SimulateOptions simulation;
};

// peft.base_bits as the trainer settles it, by the config instead of the weights.
void settle_base(LoraConfig& peft, bool is_fp8) {
  if (peft.base_bits == "fp8" && !is_fp8) {
    user_error(
        "peft.base_bits=fp8 has no effect: the model's config says nothing of FP8; leave it out");
  }
  if (peft.base_bits != "auto") return;
  peft.base_bits = is_fp8 && !peft.scheme.empty() && !peft.starts_with_pissa() ? "fp8" : "16";
}

// What flags say of a rank, read before anything is opened or measured.
struct GivenRates {
  explicit GivenRates(const PlanFlags& flags) {
    if (flags.memory) memory = static_cast<int64_t>(parse_bytes("--memory", *flags.memory));
    const auto read = [](std::optional<double>& rate, const char* flag,
                         const std::optional<std::string>& text) {
      if (text) rate = parse_rate(flag, *text);
    };
    read(flops, "--flops", flags.flops);
    read(bandwidth, "--bandwidth", flags.bandwidth);
    read(link, "--link", flags.link);
    read(network, "--network", flags.network);
    read(disk, "--disk", flags.disk);
  }

  std::optional<int64_t> memory;
  std::optional<double> flops, bandwidth, link, network, disk;
};

Machine machine_of(const PlanFlags& flags, const GivenRates& given, at::ScalarType dtype) {
  Machine machine = flags.cards > 0 ? usual_cards(flags.cards)
                                    : this_machine(std::max<int64_t>(1, flags.processes), dtype);
  if (flags.cards_a_node > 0) {
    if (flags.cards % flags.cards_a_node != 0) {
      user_error("--gpus-per-node {} does not divide --gpus {}", flags.cards_a_node, flags.cards);
    }
    machine.ranks_per_node = flags.cards_a_node;
  }
  if (given.memory) {
    machine.memory_bytes = *given.memory;
    machine.memory_origin = Origin::kGiven;
  }
  const auto take = [](Rate& rate, const std::optional<double>& value) {
    if (value) rate = {*value, Origin::kGiven};
  };
  take(machine.flops, given.flops);
  take(machine.bandwidth, given.bandwidth);
  take(machine.link, given.link);
  take(machine.network, given.network);
  if (given.link && machine.ranks == 1) {
    user_error("--link {} has no effect: there is one rank; leave it out", *flags.link);
  }
  if (given.network && machine.ranks <= machine.ranks_per_node) {
    user_error(
        "--network {} has no effect: all {} ranks are on one node (--gpus-per-node); leave it out",
        *flags.network, machine.ranks);
  }
  return machine;
}

std::pair<int64_t, int64_t> parse_picture_size(const std::string& text) {
  const size_t cross = text.find('x');
  int64_t width = 0, height = 0;
  const bool is_whole = cross != std::string::npos &&
                        number_problem(text.substr(0, cross), width).empty() &&
                        number_problem(text.substr(cross + 1), height).empty();
  if (!is_whole || width < 1 || height < 1 || width > (1 << 20) || height > (1 << 20)) {
    user_error("--picture-size {}: it is WIDTHxHEIGHT in pixels, such as 1024x768", text);
  }
  return {width, height};
}

SampleShape sample_of(const PlanFlags& flags, const ModelConfig& model, TrainConfig config) {
  if (flags.tokens > config.model.seq_length) {
    user_error("--tokens {} is over model.seq_length={}", flags.tokens, config.model.seq_length);
  }
  if (flags.tokens > 0) config.model.seq_length = flags.tokens;
  SampleShape sample = largest_sample(model, config);
  if (!model.vision && (flags.pictures > 0 || flags.picture_size)) {
    user_error("pictures have no effect: the model is of text only; leave them out");
  }
  if (flags.pictures == 0 && flags.picture_size) {
    user_error("--picture-size {} has no effect without pictures; leave it out",
               *flags.picture_size);
  }
  if (flags.pictures >= 0) sample.pictures = flags.pictures;
  if (flags.picture_size) {
    const auto [width, height] = parse_picture_size(*flags.picture_size);
    sample.pictures = std::max<int64_t>(1, sample.pictures);
    set_picture(sample, model, config, height, width);
  } else if (sample.pictures > 0) {
    const int64_t side = model.vision->patch_size * model.projector.spatial_merge_size;
    set_picture(sample, model, config, std::max(side, sample.height), std::max(side, sample.width));
  }
  const int64_t text = std::max<int64_t>(1, sample.tokens - picture_tokens(sample, model));
  if (flags.targets > text) {
    user_error("--targets {}: of {} tokens {} are no picture's", flags.targets, sample.tokens,
               text);
  }
  sample.targets = flags.targets > 0 ? flags.targets : text;
  return sample;
}

FixedAxes fixed_axes(const SettledRun& run) {
  FixedAxes fixed;
  const ModelOptions& model = run.config.model;
  const auto is_asked = [&](const char* key) { return run.asked.keys.contains(key); };
  if (is_asked("model.tensor_model_parallel_size")) fixed.tensor = model.tensor_model_parallel_size;
  if (is_asked("model.context_parallel_size")) fixed.context = model.context_parallel_size;
  if (is_asked("model.pipeline_model_parallel_size")) {
    fixed.pipeline = model.pipeline_model_parallel_size;
  }
  if (is_asked("model.virtual_pipeline_model_parallel_size")) {
    fixed.virtual_pipeline = model.virtual_pipeline_model_parallel_size;
  }
  if (is_asked("model.sequence_parallel")) fixed.sequence_parallel = model.sequence_parallel;
  return fixed;
}

void plan(const PlanFlags& flags) {
  const GivenRates given(flags);
  SettledRun settled_run = settled(flags.run);
  for (const std::string& note : settled_run.notes) fmt::print(stderr, "{}\n", note);
  TrainConfig& config = settled_run.config;
  const FoundModel model = found_model(flags.run, config);
  settle_base(config.peft, model.is_fp8);
  if (config.peft.shard_base && !config.trains_adapters()) {
    user_error(
        "peft.shard_base=true has no effect: peft.scheme is empty: the weights themselves train; "
        "leave it out");
  }
  const SampleShape sample = sample_of(flags, model.config, config);
  const Machine machine = machine_of(flags, given, config.dtype());
  const PlannedRun run{.config = config,
                       .shape = ModelShape(model.config, config),
                       .sample = sample,
                       .on_card = machine.on_card};
  const std::vector<Candidate> all = all_topologies(run, machine, fixed_axes(settled_run));
  if (flags.json) {
    fmt::print("{}\n", plan_json(all, run, machine).dump(2));
    return;
  }
  fmt::print("{}\n{}\n", plan_heading(run, machine), plan_table(all, machine, flags.rows));
  for (const std::string& line : reasons(all, run, machine)) fmt::print("{}\n", line);
  if (!flags.simulate) return;
  SimulateOptions simulation = flags.simulation;
  if (given.disk) simulation.disk = *given.disk;
  for (const std::string& line : simulated(run, all.front(), machine, simulation)) {
    fmt::print("{}\n", line);
  }
}

}  // namespace

void add_plan(Command app) {
  Command command = app.add_command(
      "plan",
      "for a run and a machine: memory, time and traffic of every topology, and which to take");
  auto flags = std::make_shared<PlanFlags>();
  add_run_choice(command, flags->run);
  const auto given = [flags](std::optional<std::string> PlanFlags::*text) {
    return [flags, text](const std::string& value) { (*flags).*text = value; };
  };
  Flag cards = add_number(command, "--gpus", flags->cards, between(1, kMostRanks),
                          "cards, a rank each; default: one process on this machine's processor");
  add_number(command, "--processes", flags->processes, between(1, 1024),
             "processes on this machine's processor, a rank each")
      .excludes(cards);
  add_number(command, "--gpus-per-node,--gpus_per_node", flags->cards_a_node,
             between(1, kMostRanks), "cards that are linked; default 8")
      .needs(cards);
  command.add("--memory", given(&PlanFlags::memory),
              "of a rank; default: 80GB of a card, of processes what the machine has");
  command.add("--flops", given(&PlanFlags::flops),
              "products of a rank a second; default: 600T of a card, of the processor as measured");
  command.add("--bandwidth", given(&PlanFlags::bandwidth),
              "of a rank's memory; default: 3TB/s of a card, of the processor as measured");
  command.add("--link", given(&PlanFlags::link),
              "a rank to another of its node; default: 450GB/s of a card");
  command.add("--network", given(&PlanFlags::network), "a rank to another node's; default: 50GB/s")
      .needs(cards);
  add_number(command, "--tokens", flags->tokens, between(1, kMostTokens),
             "of a sample; default: model.seq_length");
  add_number(command, "--targets", flags->targets, between(1, kMostTokens),
             "tokens of a sample that have a loss; default: all but pictures'");
  add_number(command, "--pictures", flags->pictures, between(0, 4096),
             "of a sample; default: one, of a model with a vision tower");
  command.add("--picture-size,--picture_size", given(&PlanFlags::picture_size),
              "WIDTHxHEIGHT; default: the largest that model, keys and tokens allow");
  Flag rows = add_number(command, "--rows", flags->rows, between(0, 1e6), "of the table; 0: all");
  Flag json = command.add_switch("--json", flags->json, "everything as JSON");
  json.excludes(rows);
  Flag simulate = command.add_switch(
      "--simulate", flags->simulate,
      "play the first topology's run through: its stages' schedule, failures and checkpoints");
  simulate.excludes(json);
  add_number(command, "--mtbf", flags->simulation.mean_hours, above(0, 1e9),
             "with --simulate: hours between failures of a rank")
      .needs(simulate);
  add_number(command, "--restart", flags->simulation.restart, between(0, 1e6),
             "with --simulate: seconds from a failure to the first step again")
      .needs(simulate);
  command
      .add("--disk", given(&PlanFlags::disk),
           "with --simulate: what all ranks write a checkpoint with; default: 10GB/s")
      .needs(simulate);
  command.on_run([flags] { plan(*flags); });
}

}  // namespace trestle
