// Threads that share out short work, many times a token. Called by products with weight panels and
// by what stands between them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace trestle {

/// Parts of a piece of work are claimed one by one, by the caller too, and the caller waits for the
/// parts that others have begun, never for a thread as such: one that the system does not run costs
/// its share and no more. (A region of OpenMP ends when its last thread has arrived, whatever was
/// left to do; beside a busy neighbour that takes a time slice each time.) Between pieces the
/// threads look out for the next for some microseconds, and then sleep.
class ThreadTeam {
 public:
  /// The caller and threads - 1 more. Fewer where the system starts no more.
  explicit ThreadTeam(int threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  /// As many as libtorch's when it is first asked for.
  static ThreadTeam& of_process();

  /// work(part) for every part of [0, parts), in no order. By the caller alone where it says so,
  /// for work that is over sooner than another thread could be at it, and where another caller's is
  /// under way. What throws ends the program: others hold the work.
  template <class Work>
  void run(int64_t parts, const Work& work, bool alone = false) {
    run_parts(
        parts,
        [](const void* what, int64_t part) noexcept { (*static_cast<const Work*>(what))(part); },
        &work, alone);
  }

  int threads() const { return static_cast<int>(others_.size()) + 1; }

 private:
  using Part = void (*)(const void* work, int64_t part) noexcept;

  void run_parts(int64_t parts, Part part, const void* work, bool alone);
  /// Claims parts of the piece of work that `ticket_` is of until there are none.
  void help();
  void look_out();

  // A piece's number, and below it how many of its parts are claimed. Whoever claims compares both,
  // so that what it has read of a piece that is over claims nothing.
  static constexpr int kClaimBits = 32;
  static constexpr uint64_t kClaims = (uint64_t{1} << kClaimBits) - 1;
  std::atomic<uint64_t> ticket_{kClaims};
  std::atomic<int64_t> parts_{0};
  std::atomic<Part> part_{nullptr};
  std::atomic<const void*> work_{nullptr};
  std::atomic<int64_t> done_{0};
  std::atomic<uint32_t> pieces_{0};  // what sleepers wait for
  std::atomic<int> sleepers_{0};
  std::atomic<bool> ends_{false};
  std::mutex busy_;
  std::vector<std::jthread> others_;
};

}  // namespace trestle
