#include "launch/nodes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "base/thread.h"

namespace trestle {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kCycle = 200ms;
// A node of which nothing is heard for so long is gone.
constexpr auto kSilence = 15s;
// The same where ranks have lost others.
constexpr auto kSuspiciousSilence = 2s;
// At the end, for the others to read how it ended.
constexpr auto kFarewell = 5s;

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }

std::string text_of(const std::vector<uint8_t>& value) { return {value.begin(), value.end()}; }

// The first line: c10d's errors carry a backtrace.
std::string packed(const Failure& of) {
  return fmt::format("{} {} {} {}", of.rank, of.node, of.status, of.signal);
}

Failure unpacked(const std::string& text) {
  Failure out;
  std::istringstream(text) >> out.rank >> out.node >> out.status >> out.signal;
  return out;
}

c10::intrusive_ptr<c10d::TCPStore> hold_store(int port, bool is_local) {
  Listening listening = listen_on(port, is_local);
  c10d::TCPStoreOptions options;
  options.isServer = true;
  options.waitWorkers = false;
  options.port = static_cast<uint16_t>(listening.port);
  options.masterListenFd = ::dup(listening.socket.get());  // the store's from now on
  ::fcntl(*options.masterListenFd, F_SETFD, FD_CLOEXEC);
  return c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
}

c10::intrusive_ptr<c10d::TCPStore> reach_store(const NodeOptions& options) {
  await_endpoint(*options.endpoint, options.join_timeout);
  c10d::TCPStoreOptions store;
  store.waitWorkers = false;
  store.port = static_cast<uint16_t>(options.endpoint->port);
  store.timeout = 10s;
  try {
    return c10::make_intrusive<c10d::TCPStore>(options.endpoint->host, store);
  } catch (const std::exception& error) {
    machine_error("--rdzv-endpoint {}: what answers there is no trestle launch --node-rank 0 ({})",
                  options.endpoint->text(), first_line(error.what()));
  }
}

}  // namespace

struct Nodes::Shared {
  // What this node has to say in a round.
  struct Wanted {
    int64_t restart = -1;  // not begun
    std::optional<Failure> failure = {};
    int stop = 0;
    bool done = false, suspects = false;

    bool operator==(const Wanted&) const = default;
  };

  c10::intrusive_ptr<c10d::TCPStore> store;
  c10::intrusive_ptr<c10d::TCPStore> of_ranks;  // on the first node
  int64_t nodes = 1, node = 0;
  std::string prefix;

  std::mutex mutex;
  std::condition_variable changed;
  Wanted wanted;
  News news;
  bool leaves = false, has_left = false;
  Clock::time_point last_cycle = Clock::now();
  Pipe told = make_pipe();
  std::jthread thread;

  struct Beat {
    int64_t count = -1;
    Clock::time_point at;
  };
  std::map<int64_t, Beat> beats;  // the thread's

  std::string key(int64_t restart, std::string_view what) const {
    return fmt::format("{}{}/{}", prefix, restart, what);
  }
  std::string beat_of(int64_t each) const { return fmt::format("{}beat/{}", prefix, each); }
  std::string left_by(int64_t each) const { return fmt::format("{}left/{}", prefix, each); }

  bool all_have(int64_t restart, std::string_view what) {
    std::vector<std::string> keys;
    for (int64_t i = 0; i < nodes; ++i) keys.push_back(key(restart, fmt::format("{}/{}", what, i)));
    return store->check(keys);
  }

  // The first value that any node gave the key: this one's, or what is there.
  std::string first_value(const std::string& name, const std::string& own) {
    if (!own.empty()) return text_of(store->compareSet(name, {}, bytes(own)));
    return store->check({name}) ? text_of(store->get(name)) : "";
  }

  // The first node opens the ranks' store when all are ready, so that nobody of the last round is
  // left in it.
  int port_of_round(int64_t restart) {
    const std::string name = key(restart, "port");
    if (node == 0 && all_have(restart, "ready") && !store->check({name})) {
      of_ranks.reset();
      of_ranks = hold_store(0, false);
      store->set(name, bytes(std::to_string(of_ranks->getPort())));
    }
    const std::string port = first_value(name, "");
    return port.empty() ? 0 : std::stoi(port);
  }

  // Of the first node: one that has left or no longer counts.
  std::optional<Failure> silent_node(bool suspects) {
    for (int64_t each = 1; node == 0 && each < nodes; ++each) {
      const int64_t count = store->add(beat_of(each), 0);
      Beat& beat = beats[each];
      if (count != beat.count) beat = {count, Clock::now()};
      const auto silence = Clock::now() - beat.at;
      const bool is_silent = silence > (suspects ? kSuspiciousSilence : kSilence);
      if (is_silent || store->check({left_by(each)})) return Failure{.rank = -1, .node = each};
    }
    return std::nullopt;
  }

  News exchange(Wanted own) {
    store->add(beat_of(node), 1);
    if (own.restart < 0) return {};
    News found;
    const auto set = [&](std::string_view what) {
      store->set(key(own.restart, fmt::format("{}/{}", what, node)), bytes("1"));
    };
    set("ready");
    if (own.done) set("done");
    found.port = port_of_round(own.restart);
    found.all_done = found.port != 0 && all_have(own.restart, "done");
    if (!own.failure && !found.all_done) own.failure = silent_node(own.suspects);
    const std::string failed =
        first_value(key(own.restart, "failed"), own.failure ? packed(*own.failure) : "");
    if (!failed.empty()) found.failed = unpacked(failed);
    const std::string stopped =
        first_value(prefix + "stop", own.stop == 0 ? "" : std::to_string(own.stop));
    if (!stopped.empty()) found.stop = std::stoi(stopped);
    return found;
  }

  // The first node holds the store until all others have gone.
  void leave() {
    const News last = exchange(wanted);
    if (wanted.restart >= 0 && !last.all_done && !last.failed) {
      first_value(key(wanted.restart, "failed"), packed({.rank = -1, .node = node}));
    }
    store->set(left_by(node), bytes("1"));
    std::vector<std::string> keys;
    for (int64_t i = 0; i < nodes; ++i) keys.push_back(left_by(i));
    const auto end = Clock::now() + kFarewell;
    while (node == 0 && !store->check(keys) && Clock::now() < end) {
      std::this_thread::sleep_for(kCycle / 4);
    }
  }

  void tell() { [[maybe_unused]] const ssize_t n = ::write(told.write.get(), "", 1); }

  void work() {
    std::unique_lock lock(mutex);
    try {
      while (!leaves) {
        const Wanted own = wanted;
        lock.unlock();
        const News found = exchange(own);
        lock.lock();
        last_cycle = Clock::now();
        if (own.restart == wanted.restart && !(found == news)) {
          news = found;
          tell();
        }
        changed.wait_for(lock, kCycle, [&] { return leaves || !(own == wanted); });
      }
      lock.unlock();
      leave();
      lock.lock();
    } catch (const std::exception& error) {
      if (!lock.owns_lock()) lock.lock();
      news.lost = first_line(error.what());
      tell();
    }
    has_left = true;
    changed.notify_all();
  }
};

namespace {

struct Joined {
  int64_t nodes = 0, max_restarts = 0, ranks = 0;
};

void require_same(std::string_view flag, int64_t own, int64_t theirs, int64_t node) {
  if (own == theirs) return;
  user_error("{} {} here, and {} on node {}: give all nodes the same", flag, own, theirs, node);
}

Joined read_joined(const std::string& text) {
  Joined out;
  std::istringstream(text) >> out.nodes >> out.max_restarts >> out.ranks;
  return out;
}

}  // namespace

Nodes::Nodes(const NodeOptions& options) : shared_(std::make_shared<Shared>()) {
  shared_->nodes = options.nodes;
  shared_->node = options.node;
  shared_->prefix = fmt::format("trestle_launch/{}/", options.run_id);
  ::fcntl(shared_->told.write.get(), F_SETFL, O_NONBLOCK);
  endpoint_ = options.endpoint.value_or(Endpoint{.host = "127.0.0.1"});
  all_ranks_ = options.ranks_per_node;
  if (options.nodes == 1) return;
  shared_->store = options.node == 0 ? hold_store(endpoint_.port, false) : reach_store(options);
  try {
    join(options);
  } catch (const c10::Error& error) {
    machine_error("--rdzv-endpoint {}: node 0 is gone before all had joined ({})", endpoint_.text(),
                  first_line(error.what()));
  }
  // What it holds lives as long as it does, which may be longer than this.
  shared_->thread = start_thread([shared = shared_] { shared->work(); }, "trestle launch");
}

void Nodes::join(const NodeOptions& options) {
  c10d::TCPStore& store = *shared_->store;
  const auto name = [&](int64_t node) { return fmt::format("{}joined/{}", shared_->prefix, node); };
  const auto differs = [&](int64_t node) {
    return fmt::format("{}differs/{}", shared_->prefix, node);
  };
  if (store.add(fmt::format("{}taken/{}", shared_->prefix, options.node), 1) != 1) {
    user_error("--node-rank {} has joined {} already: give each node its own", options.node,
               endpoint_.text());
  }
  store.set(name(options.node), bytes(fmt::format("{} {} {}", options.nodes, options.max_restarts,
                                                  options.ranks_per_node)));
  const auto end = Clock::now() + options.join_timeout;
  for (int64_t waits_for = 0; waits_for < options.nodes;) {
    if (!store.check({name(waits_for)})) {
      if (Clock::now() > end) {
        machine_error(
            "--rdzv-endpoint {}: node {} of {} has not joined within {} s; start trestle launch on "
            "each node with the same --nnodes, --rdzv-endpoint and --rdzv-id",
            endpoint_.text(), waits_for, options.nodes, options.join_timeout.count());
      }
      std::this_thread::sleep_for(kCycle / 2);
      continue;
    }
    const Joined other = read_joined(text_of(store.get(name(waits_for))));
    try {
      require_same("--nnodes", options.nodes, other.nodes, waits_for);
      require_same("--max-restarts", options.max_restarts, other.max_restarts, waits_for);
    } catch (const UserError&) {
      store.set(differs(options.node), bytes("1"));
      // The first node holds the store until the other has seen it too.
      const auto farewell = Clock::now() + kFarewell;
      while (options.node == 0 && !store.check({differs(waits_for)}) && Clock::now() < farewell) {
        std::this_thread::sleep_for(kCycle / 4);
      }
      throw;
    }
    if (waits_for == 0) all_ranks_ = 0;
    if (waits_for < options.node) first_rank_ += other.ranks;
    all_ranks_ += other.ranks;
    ++waits_for;
  }
}

Nodes::~Nodes() {
  if (!shared_->thread.joinable()) return;
  std::unique_lock lock(shared_->mutex);
  shared_->leaves = true;
  shared_->changed.notify_all();
  shared_->changed.wait_for(lock, 2 * kFarewell, [&] { return shared_->has_left; });
  // A network that hangs holds up nobody.
  if (!shared_->has_left) shared_->thread.detach();
  std::jthread thread = std::move(shared_->thread);
  lock.unlock();
}

void Nodes::ready(int64_t restart) {
  const std::scoped_lock lock(shared_->mutex);
  if (shared_->nodes == 1) {
    // To this machine alone, where its address is.
    const bool is_local = endpoint_.host == "127.0.0.1" || endpoint_.host == "localhost";
    shared_->of_ranks.reset();
    shared_->of_ranks = hold_store(endpoint_.port, is_local);
    shared_->news = {};
    shared_->news.port = shared_->of_ranks->getPort();
    return;
  }
  shared_->wanted = {.restart = restart, .stop = shared_->wanted.stop};
  shared_->news = {.stop = shared_->news.stop, .lost = shared_->news.lost};
  shared_->changed.notify_all();
}

void Nodes::fail(const Failure& failure) {
  const std::scoped_lock lock(shared_->mutex);
  shared_->wanted.failure = failure;
  if (shared_->nodes == 1) shared_->news.failed = failure;
  shared_->changed.notify_all();
}

void Nodes::suspect() {
  const std::scoped_lock lock(shared_->mutex);
  shared_->wanted.suspects = true;
  shared_->changed.notify_all();
}

void Nodes::stop(int signal) {
  const std::scoped_lock lock(shared_->mutex);
  shared_->wanted.stop = signal;
  shared_->changed.notify_all();
}

void Nodes::done() {
  const std::scoped_lock lock(shared_->mutex);
  shared_->wanted.done = true;
  if (shared_->nodes == 1) shared_->news.all_done = true;
  shared_->changed.notify_all();
}

Nodes::News Nodes::news() const {
  std::array<char, 64> told;
  while (::read(shared_->told.read.get(), told.data(), told.size()) > 0) {
  }
  const std::scoped_lock lock(shared_->mutex);
  News out = shared_->news;
  const bool hangs = shared_->nodes > 1 && Clock::now() - shared_->last_cycle > kSilence;
  if (hangs && out.lost.empty()) out.lost = "it no longer answers";
  return out;
}

int Nodes::descriptor() const { return shared_->told.read.get(); }

}  // namespace trestle
