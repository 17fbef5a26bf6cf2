#include "parallel/environment.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/number.h"

namespace trestle {

namespace {

constexpr int64_t kMostRanks = int64_t{1} << 24;
constexpr int64_t kMostPort = 65535;
// Slurm's steps that are no srun's: batch, extern, interactive (salloc's shell), pending.
constexpr int64_t kFirstSpecialStep = 0xfffffff0;
// Below the ports that Linux gives out by itself.
constexpr int64_t kFirstSlurmPort = 15000;
constexpr int64_t kSlurmPorts = 10000;

class Variables {
 public:
  explicit Variables(const Getenv& get) : get_(get) {}

  std::optional<std::string> text(const char* name) const {
    const char* value = get_(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  }

  /// In low..high.
  std::optional<int64_t> number(const char* name, int64_t low, int64_t high) const {
    const auto value = text(name);
    if (!value) return std::nullopt;
    int64_t number = 0;
    const std::string problem = number_problem(*value, number);
    if (!problem.empty()) user_error("{} {}; a launcher sets it", name, problem);
    if (number < low || number > high) {
      user_error("{}={} is not in {}..{}; a launcher sets it", name, number, low, high);
    }
    return number;
  }

 private:
  const Getenv& get_;
};

// torchrun's.

// The first that is set, "RANK=3".
std::string one_that_is_set(const Variables& of) {
  for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK"}) {
    if (const auto value = of.text(name)) return fmt::format("{}={}", name, *value);
  }
  return "";
}

[[noreturn]] void refuse_half(const Variables& of, std::string_view missing) {
  user_error(
      "{} is set, and {} is not: a launcher sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, "
      "MASTER_ADDR and MASTER_PORT; start the ranks by trestle launch, or unset them for one "
      "process",
      one_that_is_set(of), missing);
}

int64_t needed(const Variables& of, const char* name, int64_t low, int64_t high) {
  const auto value = of.number(name, low, high);
  if (!value) refuse_half(of, name);
  return *value;
}

bool has_agent_store(const Variables& of) {
  constexpr const char* kName = "TORCHELASTIC_USE_AGENT_STORE";
  const std::string value = of.text(kName).value_or("False");
  if (value != "True" && value != "False") user_error("{}={} is not True or False", kName, value);
  return value == "True";
}

RankEnvironment torchrun_environment(const Variables& of) {
  RankEnvironment out;
  out.size = needed(of, "WORLD_SIZE", 1, kMostRanks);
  out.rank = needed(of, "RANK", 0, kMostRanks);
  if (out.rank >= out.size) user_error("RANK={} is not below WORLD_SIZE={}", out.rank, out.size);
  const auto local_rank = of.number("LOCAL_RANK", 0, kMostRanks);
  const auto local_size = of.number("LOCAL_WORLD_SIZE", 1, kMostRanks);
  if (out.size > 1 && !local_rank) refuse_half(of, "LOCAL_RANK");
  if (out.size > 1 && !local_size) refuse_half(of, "LOCAL_WORLD_SIZE");
  out.local_rank = local_rank.value_or(0);
  out.local_size = local_size.value_or(1);
  if (out.local_size > out.size) {
    user_error("LOCAL_WORLD_SIZE={} is more than WORLD_SIZE={}", out.local_size, out.size);
  }
  if (out.local_rank >= out.local_size) {
    user_error("LOCAL_RANK={} is not below LOCAL_WORLD_SIZE={}", out.local_rank, out.local_size);
  }
  if (out.local_rank > out.rank) {
    user_error("LOCAL_RANK={} is above RANK={}", out.local_rank, out.rank);
  }
  const auto address = of.text("MASTER_ADDR");
  const auto port = of.number("MASTER_PORT", 1, kMostPort);
  if (out.size > 1 && !address) refuse_half(of, "MASTER_ADDR");
  if (out.size > 1 && !port) refuse_half(of, "MASTER_PORT");
  out.master_address = address.value_or("");
  out.port = static_cast<int>(port.value_or(0));
  out.restart =
      of.number("TORCHELASTIC_RESTART_COUNT", 0, std::numeric_limits<int32_t>::max()).value_or(0);
  out.run_id = of.text("TORCHELASTIC_RUN_ID").value_or("");
  out.agent_store = has_agent_store(of);
  return out;
}

// srun's.

int64_t needed_in_step(const Variables& of, const char* name, int64_t low, int64_t high) {
  const auto value = of.number(name, low, high);
  if (value) return *value;
  user_error("SLURM_STEP_ID={} is set, and {} is not: srun sets both", *of.text("SLURM_STEP_ID"),
             name);
}

// Of the step, not of the job: the shell of salloc is one task in a job of many.
std::optional<int64_t> tasks_of_step(const Variables& of) {
  const auto step = of.number("SLURM_STEP_ID", 0, std::numeric_limits<uint32_t>::max());
  if (!step || *step >= kFirstSpecialStep) return std::nullopt;
  if (of.text("SLURM_PTY_PORT")) return std::nullopt;  // srun --pty: somebody types here
  const auto tasks = of.number("SLURM_STEP_NUM_TASKS", 1, kMostRanks);
  return tasks ? tasks : of.number("SLURM_NTASKS", 1, kMostRanks);
}

int64_t tasks_of_this_node(const Variables& of, int64_t size) {
  for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}) {
    if (const auto list = of.text(name)) {
      return tasks_of_node(name, *list, needed_in_step(of, "SLURM_NODEID", 0, kMostRanks));
    }
  }
  const auto tasks = of.number("SLURM_NTASKS_PER_NODE", 1, kMostRanks);
  if (tasks) return *tasks;
  if (of.number("SLURM_STEP_NUM_NODES", 1, kMostRanks).value_or(1) == 1) return size;
  return needed_in_step(of, "SLURM_NTASKS_PER_NODE", 1, kMostRanks);
}

std::string address_in_step(const Variables& of) {
  if (const auto address = of.text("MASTER_ADDR")) return *address;
  for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"}) {
    if (const auto list = of.text(name)) return first_host(name, *list);
  }
  user_error("SLURM_STEP_ID={} is set, and SLURM_STEP_NODELIST is not: srun sets both",
             *of.text("SLURM_STEP_ID"));
}

RankEnvironment slurm_environment(const Variables& of, int64_t size) {
  RankEnvironment out;
  out.size = size;
  out.rank = needed_in_step(of, "SLURM_PROCID", 0, kMostRanks);
  if (out.rank >= size)
    user_error("SLURM_PROCID={} is not below the step's {} tasks", out.rank, size);
  out.local_rank = needed_in_step(of, "SLURM_LOCALID", 0, kMostRanks);
  out.local_size = tasks_of_this_node(of, size);
  if (out.local_rank >= out.local_size || out.local_size > size) {
    user_error("SLURM_LOCALID={} of {} tasks on this node makes no sense in a step of {} tasks",
               out.local_rank, out.local_size, size);
  }
  const int64_t job = needed_in_step(of, "SLURM_JOB_ID", 0, std::numeric_limits<uint32_t>::max());
  const int64_t step = *of.number("SLURM_STEP_ID", 0, kFirstSpecialStep);
  out.master_address = address_in_step(of);
  // Neighbouring jobs and steps may share a node.
  const int64_t port = kFirstSlurmPort + (job + 97 * step) % kSlurmPorts;
  out.port = static_cast<int>(of.number("MASTER_PORT", 1, kMostPort).value_or(port));
  out.run_id = fmt::format("{}.{}", job, step);
  return out;
}

}  // namespace

std::string first_host(std::string_view variable, std::string_view list) {
  std::string host;
  size_t i = 0;
  const auto refuse = [&] { user_error("{}={} is no list of hosts", variable, list); };
  while (i < list.size() && list[i] != ',') {
    if (list[i] != '[') {
      host += list[i++];
      continue;
    }
    const size_t end = list.find(']', i);
    const std::string_view numbers = end == list.npos ? "" : list.substr(i + 1, end - i - 1);
    const std::string_view first = numbers.substr(0, numbers.find_first_of("-,"));
    const bool is_number = !first.empty() && std::ranges::all_of(first, [](char digit) {
      return digit >= '0' && digit <= '9';
    });
    if (!is_number) refuse();
    host += first;
    i = end + 1;
  }
  if (host.empty() || host.find_first_of("] \t") != host.npos) refuse();
  return host;
}

int64_t tasks_of_node(std::string_view variable, std::string_view list, int64_t node) {
  const auto parse = [&](std::string_view text) {
    int64_t number = 0;
    if (!number_problem(text, number).empty() || number < 1 || number > kMostRanks) {
      user_error("{}={} is no list of tasks such as 4(x2),3", variable, list);
    }
    return number;
  };
  int64_t nodes = 0;
  for (std::string_view rest = list; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    const size_t times = part.find("(x");
    const int64_t tasks = parse(part.substr(0, times));
    if (times != part.npos && !part.ends_with(')')) parse("");
    nodes += times == part.npos ? 1 : parse(part.substr(times + 2, part.size() - times - 3));
    if (node < nodes) return tasks;
  }
  user_error("{}={} has {} nodes, and SLURM_NODEID={} is none of them", variable, list, nodes,
             node);
}

RankEnvironment rank_environment(const Getenv& get) {
  const Variables variables(get);
  if (!one_that_is_set(variables).empty()) return torchrun_environment(variables);
  const int64_t tasks = tasks_of_step(variables).value_or(1);
  return tasks > 1 ? slurm_environment(variables, tasks) : RankEnvironment{};
}

RankEnvironment rank_environment() {
  return rank_environment([](const char* name) -> const char* { return std::getenv(name); });
}

}  // namespace trestle
