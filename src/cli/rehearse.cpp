// `trestle rehearse`: a run's topology on this machine's processor, as threads, on a model of the
// same parallel shape, held against one rank.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "flags/assets.h"
#include "flags/number_flag.h"
#include "flags/run_choice.h"
#include "rehearse/rehearsal.h"
#include "rehearse/shrink.h"

namespace trestle {

namespace {

namespace fs = std::filesystem;

struct RehearseFlags {
  RunChoice run;
  std::string assets;
  int64_t ranks = 0, steps = 3;
  bool json = false;
};

// A folder of its own that goes with it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "trestle-rehearse-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) machine_error("cannot make a folder {}", name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Topology asked_topology(const ModelOptions& model, int64_t ranks) {
  const Topology axes{.tensor = model.tensor_model_parallel_size,
                      .context = model.context_parallel_size,
                      .pipeline = model.pipeline_model_parallel_size,
                      .virtual_pipeline = model.virtual_pipeline_model_parallel_size,
                      .sequence_parallel = model.sequence_parallel};
  if (ranks > 0) return over_world(axes, ranks);
  // So that rows are shared out too.
  Topology usual = axes;
  usual.data = 2;
  return usual;
}

// The run on the demo's data, with as many samples a step as give each data rank several
// micro-batches, and every stage of a pipeline something to do.
TrainConfig on_demo_data(TrainConfig config, const Topology& topology, const fs::path& model,
                         const fs::path& data) {
  config.checkpoint.pretrained_checkpoint = model.string();
  config.checkpoint.save = (model.parent_path() / "run").string();
  config.dataset.maker_name = "make_cord_v2_dataset";
  config.dataset.path_or_dataset = data.string();
  config.dataset.blend.clear();
  config.train.micro_batch_size = std::min<int64_t>(config.train.micro_batch_size, 2);
  config.train.global_batch_size =
      config.train.micro_batch_size * topology.data * std::max<int64_t>(2, topology.pipeline);
  config.peft.adapter_path.clear();
  return config;
}

void print_table(const Rehearsal& rehearsal) {
  fmt::print("{:<44} {:>14} {:>14} {:>10}\n", "", "one rank",
             fmt::format("{} ranks", rehearsal.topology.world()), "differ by");
  for (const RehearsedNumber& number : rehearsal.numbers) {
    fmt::print("{:<44} {:>14.7g} {:>14.7g} {:>10.1e}{}\n", number.name, number.one, number.many,
               number.difference, number.difference <= rehearsal.tolerance ? "" : "  NOT EQUAL");
  }
  fmt::print("\n{:<16} {:>6} {:>12} {:>16}\n", "group", "ranks", "collectives", "bytes a rank");
  for (const RehearsedTraffic& each : rehearsal.traffic) {
    fmt::print("{:<16} {:>6} {:>12} {:>16}\n", each.group, each.ranks, each.calls, each.bytes);
  }
  fmt::print("\n{}: {} (bound {:g}); {:.1f} s on one rank, {:.1f} s on {} threads\n",
             to_string(rehearsal.topology),
             rehearsal.is_equal() ? "equal to one rank" : "NOT equal to one rank",
             rehearsal.tolerance, rehearsal.seconds_one, rehearsal.seconds_many,
             rehearsal.topology.world());
}

Json as_json(const Rehearsal& rehearsal) {
  Json numbers = Json::array(), traffic = Json::array();
  for (const RehearsedNumber& each : rehearsal.numbers) {
    numbers.push_back({{"name", each.name},
                       {"one", each.one},
                       {"many", each.many},
                       {"difference", each.difference}});
  }
  for (const RehearsedTraffic& each : rehearsal.traffic) {
    traffic.push_back({{"group", each.group},
                       {"ranks", each.ranks},
                       {"collectives", each.calls},
                       {"bytes", each.bytes}});
  }
  return {{"topology", to_string(rehearsal.topology)},
          {"ranks", rehearsal.topology.world()},
          {"equal", rehearsal.is_equal()},
          {"tolerance", rehearsal.tolerance},
          {"numbers", numbers},
          {"traffic", traffic}};
}

void run(const RehearseFlags& flags) {
  const SettledRun settled_run = settled(flags.run);
  for (const std::string& note : settled_run.notes) fmt::print(stderr, "{}\n", note);
  const FoundModel model = found_model(flags.run, settled_run.config);
  const Topology topology = asked_topology(settled_run.config.model, flags.ranks);
  require_topology(topology, sharded_sizes(model.config.text));
  const fs::path assets = find_assets(flags.assets);
  const TemporaryFolder folder;
  write_shrunk_model(assets / "model", model.config, topology, /*seed=*/1234,
                     folder.path() / "model");
  const Rehearsal rehearsal = Rehearser(on_demo_data(settled_run.config, topology,
                                                     folder.path() / "model", assets / "data"),
                                        flags.steps)
                                  .on(topology);
  if (flags.json) {
    fmt::print("{}\n", as_json(rehearsal).dump(2));
  } else {
    print_table(rehearsal);
  }
  if (!rehearsal.is_equal())
    machine_error("{} do not compute what one rank does", to_string(topology));
}

}  // namespace

void add_rehearse(Command app) {
  Command command = app.add_command(
      "rehearse", "a run's topology on this machine, as threads, held against one rank");
  auto flags = std::make_shared<RehearseFlags>();
  add_run_choice(command, flags->run);
  add_number(command, "--ranks", flags->ranks, between(1, 64),
             "of which those that model.*_parallel_size leave share rows out; default: as many as "
             "make two of these");
  add_number(command, "--steps", flags->steps, between(1, 100), "optimizer steps; default 3");
  command.add("--assets", flags->assets, "the demo's model and data; default: beside the source");
  command.add_switch("--json", flags->json, "everything as JSON");
  command.on_run([flags] { run(*flags); });
}

}  // namespace trestle
