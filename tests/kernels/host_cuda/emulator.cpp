#include "kernels/host_cuda/emulator.h"

#include <fmt/format.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace host_cuda {

Place place;

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kLanes = 32, kMostThreads = 1024;
constexpr size_t kMostSharedBytes = 227 << 10;  // of a block on sm_90

enum class State { kReady, kAtBarrier, kInExchange, kDone };

// Where a stack goes on. A stack is begun by ucontext; later changes of place are jumps, which ask
// nothing of the system. The address sanitizer follows ucontext's changes only.
struct Spot {
  ucontext_t context;
  jmp_buf jump;
};

struct Fiber {
  Spot spot;
  std::unique_ptr<char[]> stack;
  uint3 index;
  State state;
  bool has_stack = false;  // and waits in it
  Site site;
  unsigned mask;
  uint64_t value;
  std::array<uint64_t, kLanes> received;
};

struct Memory {
  void* data;
  size_t bytes;
};

Schedule schedule;
std::mt19937_64 shuffler;
std::vector<Fiber> fibers(kMostThreads);
size_t threads, running;
// How many wait, so that only the last to come looks at the others.
size_t at_barrier;
std::array<int, kMostThreads / kLanes> in_exchange;  // of a warp
Spot scheduler;
const std::function<void()>* body;
std::exception_ptr fault;
std::vector<Memory> poisoned;
std::vector<std::byte> dynamic;

std::string told(const Site& site) { return fmt::format("{}:{}", site.file_name(), site.line()); }

bool is_same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

#ifdef __SANITIZE_ADDRESS__
void begin(Spot& from, Spot& to) { swapcontext(&from.context, &to.context); }
void change(Spot& from, Spot& to) { swapcontext(&from.context, &to.context); }
#else
void begin(Spot& from, Spot& to) {
  if (_setjmp(from.jump) == 0) setcontext(&to.context);
}
void change(Spot& from, Spot& to) {
  if (_setjmp(from.jump) == 0) _longjmp(to.jump, 1);
}
#endif

void wait() { change(fibers[running].spot, scheduler); }

// Block after block.
void run_body() {
  for (;;) {
    try {
      (*body)();
    } catch (...) {
      fault = std::current_exception();
    }
    fibers[running].state = State::kDone;
    wait();
  }
}

void make_stack(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  fiber.has_stack = true;
  ucontext_t& context = fiber.spot.context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  makecontext(&context, run_body, 0);
}

void resume(size_t i) {
  Fiber& fiber = fibers[i];
  running = i;
  place.thread = fiber.index;
  if (fiber.has_stack) {
    change(scheduler, fiber.spot);
  } else {
    make_stack(fiber);
    begin(scheduler, fiber.spot);
  }
  if (fault) std::rethrow_exception(std::exchange(fault, nullptr));
}

std::vector<size_t> ordered(size_t count) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  if (schedule.order == Order::kDescending) std::ranges::reverse(order);
  if (schedule.order == Order::kShuffled) std::ranges::shuffle(order, shuffler);
  return order;
}

std::string waiting_threads() {
  std::string text;
  for (size_t i = 0; i < threads; ++i) {
    const Fiber& fiber = fibers[i];
    const bool again = i > 0 && fiber.state == fibers[i - 1].state &&
                       (fiber.state == State::kDone || is_same(fiber.site, fibers[i - 1].site));
    if (again) continue;
    text += fmt::format("; from thread {}: ", i);
    if (fiber.state == State::kDone) text += "returned";
    if (fiber.state == State::kAtBarrier) text += "at the barrier of " + told(fiber.site);
    if (fiber.state == State::kInExchange) {
      text += fmt::format("in the shuffle of {}, mask {:#x}", told(fiber.site), fiber.mask);
    }
  }
  return text;
}

void start_block(dim3 block) {
  for (const Memory& memory : poisoned) std::memset(memory.data, 0xFF, memory.bytes);
  std::ranges::fill(dynamic, std::byte{0xFF});
  at_barrier = 0;
  in_exchange = {};
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    const auto n = static_cast<unsigned>(i);
    fiber.index = {n % block.x, n / block.x % block.y, n / block.x / block.y};
    fiber.state = State::kReady;
  }
}

// Until no lane of the warp can go on, so that a warp runs as far ahead of the others as a card
// would ever let it; in random order sometimes not so far. Whether any lane went on.
bool run_warp(size_t warp) {
  const size_t first = warp * kLanes, lanes = std::min<size_t>(kLanes, threads - first);
  const bool in_full = schedule.order != Order::kShuffled || shuffler() % 2 == 0;
  bool any = false;
  for (bool again = true; again;) {
    bool here = false;
    for (const size_t lane : ordered(lanes)) {
      if (fibers[first + lane].state != State::kReady) continue;
      here = true;
      resume(first + lane);
    }
    any = any || here;
    again = here && in_full;
  }
  return any;
}

void run_block(dim3 block) {
  start_block(block);
  const auto block_fibers = std::span(fibers).first(threads);
  const auto is_done = [](const Fiber& fiber) { return fiber.state == State::kDone; };
  while (!std::ranges::all_of(block_fibers, is_done)) {
    bool any = false;
    for (const size_t warp : ordered((threads + kLanes - 1) / kLanes)) any |= run_warp(warp);
    if (!any) throw Fault("threads wait for each other for ever" + waiting_threads());
  }
}

}  // namespace

void set_schedule(const Schedule& wanted) { schedule = wanted; }

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  threads = size_t{block.x} * block.y * block.z;
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  if (threads == 0 || threads > kMostThreads || blocks == 0 || grid.x > 0x7FFFFFFF ||
      grid.y > 0xFFFF || grid.z > 0xFFFF || shared_bytes > kMostSharedBytes) {
    throw Fault(fmt::format("no card takes {} blocks of {} threads and {} bytes", blocks, threads,
                            shared_bytes));
  }
  body = &thread;
  shuffler.seed(schedule.seed);
  dynamic.resize(shared_bytes);
  place.block_size = block;
  place.grid_size = grid;
  for (const size_t i : ordered(blocks)) {
    const auto n = static_cast<unsigned>(i);
    place.block = {n % grid.x, n / grid.x % grid.y, n / grid.x / grid.y};
    try {
      run_block(block);
    } catch (...) {
      // Those that wait within the kernel will not go on there.
      for (Fiber& fiber : fibers) fiber.has_stack = false;
      throw;
    }
  }
}

void barrier(const Site& site) {
  Fiber& self = fibers[running];
  self.state = State::kAtBarrier;
  self.site = site;
  if (++at_barrier < threads) return wait();
  const auto block = std::span(fibers).first(threads);
  if (!std::ranges::all_of(block, [&](const Fiber& at) { return is_same(at.site, site); })) {
    return wait();
  }
  at_barrier = 0;
  for (Fiber& fiber : block) fiber.state = State::kReady;
}

const std::array<uint64_t, 32>& exchange(unsigned mask, uint64_t value, const Site& site) {
  Fiber& self = fibers[running];
  if ((mask >> running % kLanes & 1) == 0) {
    throw Fault(fmt::format("lane {} is not in its own mask {:#x} at {}", running % kLanes, mask,
                            told(site)));
  }
  self.state = State::kInExchange;
  self.site = site;
  self.mask = mask;
  self.value = value;
  const size_t first = running / kLanes * kLanes;
  int& waiting = in_exchange[running / kLanes];
  if (++waiting < std::popcount(mask)) {
    wait();
    return self.received;
  }
  std::array<uint64_t, kLanes> values{};
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const bool here = first + lane < threads && fibers[first + lane].state == State::kInExchange &&
                      fibers[first + lane].mask == mask && is_same(fibers[first + lane].site, site);
    if (!here) {
      wait();
      return self.received;
    }
    values[lane] = fibers[first + lane].value;
  }
  waiting -= std::popcount(mask);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    fibers[first + lane].received = values;
    fibers[first + lane].state = State::kReady;
  }
  return self.received;
}

void poison_at_start(void* data, size_t bytes) {
  std::memset(data, 0xFF, bytes);
  poisoned.push_back({data, bytes});
}

void check_index(int64_t index, int64_t count) {
  if (index >= 0 && index < count) return;
  throw Fault(fmt::format("shared memory has {} elements; thread {} of block {} asks for {}", count,
                          running, place.block.x, index));
}

void check_aligned(const void* data, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(data) % alignment == 0) return;
  throw Fault(fmt::format("thread {} of block {} reads {} bytes at {}, which is not aligned",
                          running, place.block.x, alignment, data));
}

std::span<std::byte> dynamic_shared_bytes() { return dynamic; }

}  // namespace host_cuda
