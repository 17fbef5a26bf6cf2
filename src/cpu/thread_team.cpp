#include "cpu/thread_team.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "base/error.h"
#include "base/thread.h"

namespace trestle {

namespace {

// How long a thread without work looks out, in pauses of some 40 cycles: longer than what lies
// between two products of a token, shorter than a time slice by far.
constexpr int kPauses = 4000;

inline void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  for (int n = 1; n < threads; ++n) {
    try {
      others_.push_back(start_thread([this] { look_out(); }, "products", n, threads - 1));
    } catch (const MachineError&) {
      break;  // those that there are do
    }
  }
}

ThreadTeam::~ThreadTeam() {
  ends_ = true;
  ++pieces_;
  pieces_.notify_all();
}

ThreadTeam& ThreadTeam::of_process() {
  static ThreadTeam team(std::max(1, at::get_num_threads()));
  return team;
}

void ThreadTeam::run_parts(int64_t parts, Part part, const void* work, bool alone) {
  std::unique_lock lock(busy_, std::defer_lock);
  if (alone || parts <= 1 || others_.empty() || !lock.try_lock() ||
      parts >= static_cast<int64_t>(kClaims)) {
    for (int64_t i = 0; i < parts; ++i) part(work, i);
    return;
  }
  parts_.store(parts, std::memory_order_release);
  part_.store(part, std::memory_order_release);
  work_.store(work, std::memory_order_release);
  done_.store(0, std::memory_order_release);
  const uint64_t piece = (ticket_.load(std::memory_order_relaxed) >> kClaimBits) + 1;
  ticket_.store(piece << kClaimBits, std::memory_order_seq_cst);
  pieces_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) pieces_.notify_all();
  help();
  for (int waited = 0; done_.load(std::memory_order_acquire) < parts; ++waited) {
    if (waited < kPauses) {
      pause();
    } else {
      std::this_thread::yield();  // whoever has the last part may wait for this processor
    }
  }
  // Closed before the next piece's numbers are written: nobody claims with one of each.
  ticket_.store(piece << kClaimBits | kClaims, std::memory_order_seq_cst);
}

void ThreadTeam::help() {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (true) {
    const Part part = part_.load(std::memory_order_acquire);
    const void* work = work_.load(std::memory_order_acquire);
    const auto claimed = static_cast<int64_t>(ticket & kClaims);
    if (claimed >= parts_.load(std::memory_order_acquire)) return;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    part(work, claimed);
    done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadTeam::look_out() {
  uint32_t seen = 0;
  while (!ends_) {
    for (int i = 0; i < kPauses && pieces_.load(std::memory_order_acquire) == seen; ++i) pause();
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    pieces_.wait(seen, std::memory_order_seq_cst);  // returns at once where there is work
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    seen = pieces_.load(std::memory_order_acquire);
    help();
  }
}

}  // namespace trestle
