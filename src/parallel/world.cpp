#include "parallel/world.h"

#include <c10/util/Logging.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/text.h"
#include "parallel/address.h"
#include "parallel/gloo.h"
#include "parallel/nccl.h"
#include "parallel/watchdog.h"

namespace trestle {

namespace {

// A launcher that starts ranks anew may keep its store, and with it the keys of those that are
// gone.
c10::intrusive_ptr<c10d::Store> store_of(const RankEnvironment& environment,
                                         std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(environment.port);
  options.isServer = environment.rank == 0 && !environment.agent_store;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::PrefixStore>(
        fmt::format("trestle/{}/{}", environment.run_id, environment.restart),
        c10::make_intrusive<c10d::TCPStore>(environment.master_address, options));
  } catch (const std::exception& error) {
    throw LostRank(fmt::format(
        "rank {} of {}: the store of MASTER_ADDR={} and MASTER_PORT={} {}: {}", environment.rank,
        environment.size, environment.master_address, environment.port,
        options.isServer ? "cannot be opened" : "cannot be reached", first_line(error.what())));
  }
}

}  // namespace

World::World() : journal_(std::make_shared<Journal>()) {}

World::World(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size,
             std::chrono::milliseconds timeout)
    : store_(std::move(store)),
      rank_(rank),
      size_(size),
      local_rank_(rank),
      address_(kThisMachine),
      timeout_(timeout),
      journal_(std::make_shared<Journal>()) {}

World::World(const RankEnvironment& environment, std::chrono::milliseconds timeout)
    : store_(environment.size > 1 ? store_of(environment, timeout) : nullptr),
      rank_(environment.rank),
      size_(environment.size),
      local_rank_(environment.local_rank),
      address_(environment.local_size == environment.size
                   ? kThisMachine
                   : address_towards(environment.master_address, environment.port)),
      timeout_(timeout),
      journal_(std::make_shared<Journal>()) {}

World::World(World&&) noexcept = default;
World& World::operator=(World&&) noexcept = default;
World::~World() = default;

void World::watch(std::function<void(const std::string& report)> found) {
  if (size_ == 1) return;
  watchdog_ = std::make_unique<Watchdog>(store_, rank_, size_, journal_,
                                         WatchdogLimits{.collective = timeout_}, std::move(found));
}

Group World::group(const std::string& name, const std::vector<int64_t>& ranks,
                   at::Device device) const {
  const auto me = std::ranges::find(ranks, rank_);
  TORCH_CHECK(me != ranks.end(), "rank ", rank_, " is not of the group ", name);
  if (ranks.size() == 1) return {};
  // Ranks that meet twice under one key would read the first meeting's addresses.
  const std::string who = fmt::format("{}/{}", name, fmt::join(ranks, ","));
  const auto store =
      c10::make_intrusive<c10d::PrefixStore>(fmt::format("{}/{}", who, made_[who]++), store_);
  try {
    const int64_t rank = me - ranks.begin(), size = std::ssize(ranks);
    auto host = gloo_backend(store, rank, size, address_, timeout_);
    if (device.is_cpu()) return {name, journal_, std::move(host)};
    // What one rank of NCCL writes there, others must not take for Gloo's.
    const auto of_cards = c10::make_intrusive<c10d::PrefixStore>("cards", store);
    return {name, journal_, std::move(host), nccl_backend(of_cards, rank, size, timeout_)};
  } catch (const UserError&) {
    throw;
  } catch (const std::exception& error) {
    const char* hint = address_ == kThisMachine
                           ? ""
                           : "; GLOO_SOCKET_IFNAME names the interface by which nodes reach each "
                             "other";
    throw LostRank(fmt::format("rank {} of {}: the {} group of ranks {} did not meet: {}{}", rank_,
                               size_, name, fmt::join(ranks, ", "), first_line(error.what()),
                               hint));
  }
}

void silence_warnings() {
  constexpr int kErrorsAlone = 2;
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = kErrorsAlone;
}

void run_ranks(int64_t ranks, const std::function<void(const World&)>& fn,
               std::chrono::milliseconds timeout) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::mutex mutex;
  std::exception_ptr first;
  bool first_is_lost = false;
  {
    std::vector<std::jthread> threads;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          fn(World(store, rank, ranks, timeout));
        } catch (const LostRank&) {
          const std::scoped_lock lock(mutex);
          if (!first) {
            first = std::current_exception();
            first_is_lost = true;
          }
        } catch (...) {
          const std::scoped_lock lock(mutex);
          if (!first || first_is_lost) first = std::current_exception();
          first_is_lost = false;
        }
      });
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace trestle
