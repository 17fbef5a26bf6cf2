#include "launch/supervisor.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/stop_signal.h"
#include "launch/cores.h"
#include "launch/output.h"
#include "launch/signals.h"
#include "parallel/world.h"

namespace trestle {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kUserError = 2;
// A line that looks like a rank's last, and is not.
constexpr auto kLastWords = 2s;
constexpr int kTickMs = 100;

bool asks_to_stop(int signal) {
  return signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGPIPE;
}

std::string ended_how(const Failure& of) {
  if (of.rank < 0) return "is gone";
  if (of.signal == 0) return fmt::format("exited with status {}", of.status);
  const char* hint = of.signal == SIGKILL ? " (the system's memory may have run out)" : "";
  return fmt::format("was ended by {}{}", signal_name(of.signal), hint);
}

class Supervisor {
 public:
  explicit Supervisor(const LaunchOptions& options);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  int run();

 private:
  struct Rank {
    int64_t number;
    Child child;
    bool has_ended = false;
  };

  // One round.
  bool await_others();
  void start_all();
  std::vector<std::string> variables(int64_t local_rank) const;
  void finish_round();
  bool is_over() const;

  // What happens in it.
  void wait_for_something();
  void hear_signals();
  void hear(int signal);
  void reap();
  void consider(const Rank& rank, int status);
  bool is_nearer(const Failure& one, const Failure& other) const;
  bool speaks_of_another_node(const Failure& failure) const;
  void hear_nodes();
  void look_at_clock();
  void decide(const Failure& failure);
  void stop(int signal);
  void signal_all(int signal) const;
  bool any_lives() const;

  // The end.
  std::string name_of(const Failure& failure) const;
  void print_all();
  [[noreturn]] void give_up(const Failure& failure);

  const LaunchOptions& options_;
  Nodes nodes_;
  HeardSignals signals_;
  Output output_{STDOUT_FILENO, STDERR_FILENO};
  std::vector<RankCores> cores_;
  int64_t restart_ = 0;
  int port_ = 0;
  std::vector<Rank> ranks_;

  // Of a round.
  std::optional<Failure> suspect_, failure_;
  std::optional<Clock::time_point> decide_at_, kill_at_, told_at_;
  std::optional<Failure> told_;
  bool ended_others_ = false;
  std::string lost_;

  // Of all of them.
  int stop_ = 0;      // was asked for
  int ended_by_ = 0;  // a rank has, having been asked
  int killed_by_ = 0;
};

Supervisor::Supervisor(const LaunchOptions& options)
    : options_(options),
      nodes_(options.nodes),
      cores_(share_cores(allowed_cores(), core_quota("/"), options.nodes.ranks_per_node)) {}

Supervisor::~Supervisor() {
  signal_all(SIGKILL);
  for (Rank& rank : ranks_) {
    if (!rank.has_ended) ::waitpid(rank.child.pid, nullptr, 0);
  }
}

int Supervisor::run() {
  for (;; ++restart_) {
    if (!await_others()) return stop_;
    start_all();
    while (!is_over()) {
      wait_for_something();
      hear_signals();
      reap();
      hear_nodes();
      look_at_clock();
    }
    finish_round();
    if (killed_by_ != 0 && !failure_) return killed_by_;
    if (!failure_) {
      print_all();
      if (const int why = output_.error(); why != 0) {
        machine_error("cannot write to standard output: {}", std::strerror(why));
      }
      return ended_by_;
    }
    const bool goes_on = lost_.empty() && failure_->rank >= 0 && failure_->status != kUserError &&
                         stop_ == 0 && restart_ < options_.nodes.max_restarts;
    if (!goes_on) give_up(*failure_);
    output_.tell(fmt::format("{} {}; all ranks start anew, restart {} of {}", name_of(*failure_),
                             ended_how(*failure_), restart_ + 1, options_.nodes.max_restarts));
  }
}

// False where all shall stop instead.
bool Supervisor::await_others() {
  nodes_.ready(restart_);
  for (;;) {
    const Nodes::News news = nodes_.news();
    if (!news.lost.empty()) machine_error("{}: {}", nodes_.endpoint().text(), news.lost);
    if (news.stop != 0 && stop_ == 0) stop_ = news.stop;
    if (stop_ != 0) return false;
    port_ = news.port;
    if (port_ != 0) return true;  // and where one failed since, it is heard in the round
    if (news.failed) give_up(*news.failed);
    wait_for_something();
    hear_signals();
  }
}

void Supervisor::start_all() {
  const int64_t count = options_.nodes.ranks_per_node;
  ranks_.clear();
  output_.clear();
  suspect_ = failure_ = told_ = {};
  decide_at_ = kill_at_ = told_at_ = {};
  ended_others_ = false;
  for (int64_t local = 0; local < count; ++local) {
    const int64_t number = nodes_.first_rank() + local;
    ranks_.push_back(
        {.number = number,
         .child = start_child(options_.program, variables(local),
                              cores_[static_cast<size_t>(local)].pinned,
                              fmt::format("rank {} of {}", number, nodes_.all_ranks()))});
    output_.add(number, ranks_.back().child);
  }
}

std::vector<std::string> Supervisor::variables(int64_t local_rank) const {
  const NodeOptions& node = options_.nodes;
  const auto line = [](const char* name, const auto& value) {
    return fmt::format("{}={}", name, value);
  };
  std::vector<std::string> out = {line("RANK", nodes_.first_rank() + local_rank),
                                  line("WORLD_SIZE", nodes_.all_ranks()),
                                  line("LOCAL_RANK", local_rank),
                                  line("LOCAL_WORLD_SIZE", node.ranks_per_node),
                                  line("GROUP_RANK", node.node),
                                  line("MASTER_ADDR", nodes_.endpoint().host),
                                  line("MASTER_PORT", port_),
                                  line("TORCHELASTIC_RESTART_COUNT", restart_),
                                  line("TORCHELASTIC_MAX_RESTARTS", node.max_restarts),
                                  line("TORCHELASTIC_RUN_ID", node.run_id),
                                  line("TORCHELASTIC_USE_AGENT_STORE", "True")};
  const char* threads = std::getenv("OMP_NUM_THREADS");
  if (threads == nullptr || *threads == '\0') {
    out.push_back(line("OMP_NUM_THREADS", cores_[static_cast<size_t>(local_rank)].threads));
  }
  return out;
}

bool Supervisor::any_lives() const {
  return std::ranges::any_of(ranks_, [](const Rank& each) { return !each.has_ended; });
}

// The ranks here have ended, and how all others' did is known.
bool Supervisor::is_over() const {
  if (any_lives() || suspect_) return false;
  if (!lost_.empty() || killed_by_ != 0) return true;
  const Nodes::News news = nodes_.news();
  return failure_ ? news.failed.has_value() : news.all_done;
}

void Supervisor::finish_round() {
  // Of several nodes' the one that was told first.
  if (const auto first = nodes_.news().failed; failure_ && first) failure_ = first;
  output_.release(failure_ ? failure_->rank : 0);
}

void Supervisor::wait_for_something() {
  std::vector<pollfd> polled = {{signals_.descriptor(), POLLIN, 0},
                                {nodes_.descriptor(), POLLIN, 0}};
  output_.list(polled);
  ::poll(polled.data(), polled.size(), kTickMs);
  output_.work();
  if (output_.is_unread() && stop_ == 0) stop_ = SIGPIPE;  // the ranks hear of it themselves
}

void Supervisor::hear_signals() {
  while (const auto signal = signals_.next()) {
    if (*signal != SIGCHLD) hear(*signal);
  }
}

void Supervisor::hear(int signal) {
  if (stop_ == 0 || stop_ == SIGPIPE) {
    nodes_.stop(signal);
    stop(signal);
  } else if (signal != SIGHUP) {  // as StopSignal has it
    killed_by_ = signal;
    signal_all(SIGKILL);
  }
}

void Supervisor::stop(int signal) {
  stop_ = signal;
  // Where they are being ended nobody waits for it any longer.
  signal_all(failure_ ? SIGKILL : signal);
}

void Supervisor::signal_all(int signal) const {
  for (const Rank& rank : ranks_) {
    if (!rank.has_ended) ::kill(-rank.child.pid, signal);
  }
}

void Supervisor::reap() {
  for (Rank& rank : ranks_) {
    int status = 0;
    if (rank.has_ended || ::waitpid(rank.child.pid, &status, WNOHANG) != rank.child.pid) continue;
    rank.has_ended = true;
    ::kill(-rank.child.pid, SIGKILL);  // what it may have started
    output_.finish(rank.number);
    consider(rank, status);
  }
  if (!any_lives() && !failure_ && !suspect_) nodes_.done();
}

void Supervisor::consider(const Rank& rank, int status) {
  Failure failure{.rank = rank.number, .node = options_.nodes.node};
  if (WIFSIGNALED(status)) failure.signal = WTERMSIG(status);
  if (WIFEXITED(status)) failure.status = WEXITSTATUS(status);
  if (failure_ || killed_by_ != 0 || (failure.signal == 0 && failure.status == 0)) return;
  if (asks_to_stop(failure.signal)) {
    ended_by_ = failure.signal;
    if (!told_) told_ = failure;
    if (!told_at_) told_at_ = Clock::now() + options_.patience.told;
    return;
  }
  if (!suspect_ || is_nearer(failure, *suspect_)) suspect_ = failure;
  const bool is_effect = speaks_of_another_node(*suspect_);
  if (is_effect) nodes_.suspect();
  const auto at = Clock::now() + (is_effect ? options_.patience.node : options_.patience.cause);
  decide_at_ = decide_at_ ? std::min(*decide_at_, at) : at;
}

bool Supervisor::speaks_of_another_node(const Failure& failure) const {
  return options_.nodes.nodes > 1 && is_echo(output_.error_of(failure.rank));
}

// To the cause. Whoever fails closes its connections before its error is told, and others that end
// by that may be faster.
bool Supervisor::is_nearer(const Failure& one, const Failure& other) const {
  const bool is_effect = is_echo(output_.error_of(one.rank));
  if (is_effect != is_echo(output_.error_of(other.rank))) return !is_effect;
  return one.status == kUserError && other.status != kUserError;
}

void Supervisor::hear_nodes() {
  const Nodes::News news = nodes_.news();
  if (news.stop != 0 && stop_ == 0) stop(news.stop);
  if (!failure_ && news.failed) decide(*news.failed);
  if (lost_.empty() && !news.lost.empty() && !(news.all_done && !any_lives())) {
    lost_ = news.lost;
    if (!failure_) decide({.rank = -1, .node = 0});
  }
}

void Supervisor::look_at_clock() {
  const auto now = Clock::now();
  const auto has_come = [&](const auto& time) { return time && now >= *time; };
  if (suspect_ && !failure_) {
    const bool is_last_word = !any_lives() && !speaks_of_another_node(*suspect_);
    if (has_come(decide_at_) || is_last_word) decide(*suspect_);
  }
  const bool nobody_follows = has_come(told_at_) && any_lives() && stop_ == 0;
  if (nobody_follows && !suspect_ && !failure_) decide(*told_);
  if (has_come(kill_at_)) signal_all(SIGKILL);
  if (!failure_ && !suspect_) output_.release_older(kLastWords);
}

void Supervisor::decide(const Failure& failure) {
  failure_ = failure;
  suspect_ = {};
  nodes_.fail(failure);
  output_.release(failure.rank);
  ended_others_ = any_lives();
  if (stop_ == 0) signal_all(SIGTERM);  // else they have heard it, and a second one ends a save
  kill_at_ = Clock::now() + options_.patience.grace;
}

std::string Supervisor::name_of(const Failure& failure) const {
  if (failure.rank < 0) return fmt::format("node {}", failure.node);
  if (options_.nodes.nodes == 1) return fmt::format("rank {}", failure.rank);
  return fmt::format("rank {} on node {}", failure.rank, failure.node);
}

void Supervisor::print_all() {
  while (!output_.is_empty()) {
    wait_for_something();
    if (const auto signal = signals_.next(); signal && *signal != SIGCHLD) return;
  }
}

void Supervisor::give_up(const Failure& failure) {
  print_all();
  if (!lost_.empty()) {
    machine_error("the launcher of node 0 at {} is gone ({}); the ranks here were ended",
                  nodes_.endpoint().text(), lost_);
  }
  const std::string behind =
      restart_ == 0 ? "" : fmt::format(", restart {} of {}", restart_, options_.nodes.max_restarts);
  const std::string line = fmt::format("{} {}{}{}", name_of(failure), ended_how(failure), behind,
                                       ended_others_ ? "; all other ranks were ended" : "");
  if (failure.status == kUserError) throw UserError(line);
  throw MachineError(line);
}

}  // namespace

bool is_echo(std::string_view error) {
  // Of Gloo, of c10d's sockets, of NCCL.
  constexpr std::array<std::string_view, 6> kWords = {"onnection closed by peer",
                                                      "onnection reset by peer",
                                                      "roken pipe",
                                                      "emote process exited",
                                                      "another rank",
                                                      "connection refused"};
  return std::ranges::any_of(kWords,
                             [&](std::string_view each) { return error.find(each) != error.npos; });
}

int run_ranks(const LaunchOptions& options) {
  silence_warnings();
  Supervisor supervisor(options);
  return supervisor.run();
}

}  // namespace trestle
