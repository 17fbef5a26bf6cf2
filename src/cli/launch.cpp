// `trestle launch`: the ranks of a node, with the flags of torchrun.
#include <algorithm>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/stop_signal.h"
#include "cli/commands.h"
#include "flags/number_flag.h"
#include "launch/supervisor.h"

namespace trestle {

namespace {

constexpr int64_t kMostOfANode = 1024;
constexpr int64_t kMostNodes = 65536;
constexpr int64_t kTorchrunsPort = 29500;
constexpr double kMostSeconds = 86400;

struct LaunchFlags {
  int64_t ranks = 0, nodes = 1, node = 0, max_restarts = 0, timeout = 600;
  int64_t master_port = kTorchrunsPort;
  std::string endpoint, master_address, run_id = "none";
};

// Whether a run that is begun anew goes on where it was: by its words, or by its file.
bool resumes(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const auto value_of = [&](std::string_view flag) -> std::optional<std::string> {
      if (word.starts_with(flag) && word.substr(flag.size(), 1) == "=") {
        return word.substr(flag.size() + 1);
      }
      if (word != flag || i + 1 == words.size()) return std::nullopt;
      return words[i + 1];
    };
    if (word == "checkpoint.load=auto" || value_of("--load-dir") == "auto" ||
        value_of("--load_dir") == "auto") {
      return true;
    }
    const auto file = value_of("--config");
    if (!file) continue;
    for (const Assignment& each :
         flatten_yaml(load_yaml(read_text(*file, 1 << 20), *file), *file)) {
      if (each.key == "checkpoint.load" && each.value == "auto") return true;
    }
  }
  return false;
}

std::optional<Endpoint> endpoint_of(const Command& command, const LaunchFlags& flags) {
  std::optional<Endpoint> out;
  if (command.flag("--rdzv-endpoint").is_given()) {
    out = parse_endpoint("--rdzv-endpoint", flags.endpoint);
  }
  if (command.flag("--master-addr").is_given()) {
    const std::string text = fmt::format("{}:{}", flags.master_address, flags.master_port);
    out = parse_endpoint("--master-addr", text);
  } else if (command.flag("--master-port").is_given()) {
    if (flags.nodes > 1) user_error("--master-port {} needs --master-addr", flags.master_port);
    out = Endpoint{.host = "127.0.0.1", .port = static_cast<int>(flags.master_port)};
  }
  if (!out && flags.nodes > 1) {
    user_error(
        "--nnodes {} needs --rdzv-endpoint HOST:PORT: an address of node 0 that the others reach",
        flags.nodes);
  }
  return out;
}

NodeOptions settled_nodes(const Command& command, const LaunchFlags& flags) {
  NodeOptions out{.nodes = flags.nodes,
                  .node = flags.node,
                  .ranks_per_node = flags.ranks,
                  .endpoint = endpoint_of(command, flags),
                  .run_id = flags.run_id,
                  .max_restarts = flags.max_restarts,
                  .join_timeout = std::chrono::seconds(flags.timeout)};
  if (flags.run_id.empty()) user_error("--rdzv-id is empty; name the run or leave it out");
  if (flags.nodes == 1) command.refuse_given({"--rdzv-timeout"}, "there is one node");
  if (flags.nodes > 1 && !command.flag("--node-rank").is_given()) {
    user_error("--nnodes {} needs --node-rank: 0 on the node of --rdzv-endpoint, others up to {}",
               flags.nodes, flags.nodes - 1);
  }
  if (flags.node >= flags.nodes) {
    user_error("--node-rank {} is not below --nnodes {}", flags.node, flags.nodes);
  }
  return out;
}

void require_ranks_make_sense(const RankCommand& words, const LaunchFlags& flags) {
  constexpr const char* kUsage = "trestle launch --nproc-per-node 8 -- finetune ...";
  if (!words) user_error("what the ranks run stands behind --: {}", kUsage);
  if (words->empty()) user_error("nothing stands behind --: {}", kUsage);
  if (words->front() != "finetune") {
    user_error("'{}' does not run in ranks; finetune alone does: {}", words->front(), kUsage);
  }
  if (flags.max_restarts > 0 && !resumes(*words)) {
    user_error(
        "--max-restarts {} without checkpoint.load=auto: a restart would begin the run anew and "
        "be refused by its directory; add checkpoint.load=auto to what stands behind --",
        flags.max_restarts);
  }
}

void launch(const Command& command, const LaunchFlags& flags, const RankCommand& words) {
  LaunchOptions options{.program = {}, .nodes = settled_nodes(command, flags)};
  require_ranks_make_sense(words, flags);
  options.program = this_program(*words);
  if (const int signal = run_ranks(options); signal != 0) end_by_signal(signal);
}

}  // namespace

RankCommand take_rank_command(std::vector<std::string>& arguments) {
  const auto dashes = std::ranges::find(arguments, "--");
  if (dashes == arguments.end()) return std::nullopt;
  std::vector<std::string> words(dashes + 1, arguments.end());
  arguments.erase(dashes, arguments.end());
  return words;
}

void add_launch(Command app, const RankCommand& words) {
  Command command = app.add_command(
      "launch", "start the ranks of a run on this node: launch --nproc-per-node 8 -- finetune ...");
  auto flags = std::make_shared<LaunchFlags>();
  add_number(command, "--nproc-per-node,--nproc_per_node", flags->ranks, between(1, kMostOfANode),
             "ranks on this node, one a card")
      .required();
  add_number(command, "--nnodes", flags->nodes, between(1, kMostNodes),
             "nodes of the run, each with a launcher of its own");
  add_number(command, "--node-rank,--node_rank", flags->node, between(0, kMostNodes - 1),
             "which of them this is");
  Flag endpoint = command.add("--rdzv-endpoint,--rdzv_endpoint", flags->endpoint,
                              "HOST:PORT of node 0, where the nodes and their ranks meet");
  command.add("--rdzv-id,--rdzv_id", flags->run_id, "the run's name, the same on all nodes");
  add_number(command, "--rdzv-timeout,--rdzv_timeout", flags->timeout, between(1, kMostSeconds),
             "seconds to wait for the other nodes");
  command.add("--master-addr,--master_addr", flags->master_address, "HOST of --rdzv-endpoint")
      .excludes(endpoint);
  add_number(command, "--master-port,--master_port", flags->master_port, between(1, 65535),
             "its PORT")
      .excludes(endpoint);
  add_number(command, "--max-restarts,--max_restarts", flags->max_restarts, between(0, 1000000),
             "how often all ranks start anew after one that failed");
  command.on_run([=] { launch(command, *flags, words); });
}

}  // namespace trestle
