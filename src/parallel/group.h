// Ranks that exchange tensors, on a backend of c10d: Gloo on CPUs, NCCL on cards. An argument of
// whatever communicates, never a global.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"

namespace c10d {
class Backend;
class Work;
}  // namespace c10d

namespace trestle {

class Journal;

/// Another rank is gone, or did not come within the time limit: a fault that began elsewhere.
class LostRank : public MachineError {
 public:
  using MachineError::MachineError;
};

enum class Collective { kAllReduce, kAllGather, kReduceScatter, kBroadcast, kSend, kReceive };
inline constexpr size_t kCollectives = 6;

/// What one rank has sent, of each kind.
struct Traffic {
  struct Kind {
    int64_t calls = 0;
    /// By the ring's algorithm: of n ranks, an all-reduce of B bytes sends 2 (n - 1) / n B of them
    /// from each, an all-gather to and a reduce-scatter of B bytes (n - 1) / n B. A broadcast
    /// counts B at its root and 0 elsewhere.
    int64_t bytes = 0;
  };
  std::array<Kind, kCollectives> kinds;

  const Kind& of(Collective collective) const { return kinds[static_cast<size_t>(collective)]; }
  Kind& of(Collective collective) { return kinds[static_cast<size_t>(collective)]; }
  int64_t bytes() const;
};

/// A collective that runs while the caller goes on.
class Pending {
 public:
  Pending() = default;
  Pending(std::function<void()> wait)
      : wait_(std::move(wait)) {}  // NOLINT(google-explicit-constructor)
  /// Until what was asked for is done. Throws LostRank.
  void wait();

 private:
  std::function<void()> wait_;
};

/// A group of one takes every call and does nothing. All of its ranks make the same calls in the
/// same order, from one thread at a time. Tensors are dense and contiguous; every call throws
/// LostRank where a rank is gone or late. On a card a call returns when the stream that is current
/// has it behind it, and what goes on by itself runs on NCCL's own stream.
class Group {
 public:
  /// Of one.
  Group() = default;
  /// `name` is for messages: "tensor", "data", ... `host` exchanges tensors of the CPU and the
  /// host's own values, `card` those of cards; null where there are none.
  Group(std::string name, std::shared_ptr<Journal> journal, c10::intrusive_ptr<c10d::Backend> host,
        c10::intrusive_ptr<c10d::Backend> card = {});

  int64_t rank() const;
  int64_t size() const;
  bool is_one() const { return size() == 1; }
  const std::string& name() const;

  /// The sum over the ranks, in x's place. Below fp32 it is made in fp32 and rounded once: Gloo's
  /// own sum of bf16 rounds at each rank, and otherwise from place to place of the tensor
  /// (findings/torch-gloo-bf16-sum-by-place.sh).
  void all_reduce(at::Tensor& x) const;
  /// The largest of the ranks' values, in x's place.
  void all_reduce_max(at::Tensor& x) const;
  /// all_reduce that goes on by itself; x may be touched again behind wait(). fp32 only.
  Pending all_reduce_async(const at::Tensor& x) const;
  /// [n, ...] of every rank -> [size * n, ...] in their order.
  at::Tensor all_gather(const at::Tensor& x) const;
  /// The same that goes on by itself, into `out`.
  Pending all_gather_async(at::Tensor out, at::Tensor x) const;
  /// [size * n, ...] -> this rank's [n, ...] of the sum, made as all_reduce's.
  at::Tensor reduce_scatter(const at::Tensor& x) const;
  /// fp32 only, into `out`.
  Pending reduce_scatter_async(at::Tensor out, at::Tensor x) const;
  /// Rank `root`'s values, in x's place.
  void broadcast(at::Tensor& x, int64_t root) const;
  /// To and from a rank of this group; x may be touched again behind wait(). A send ends when it is
  /// received. Between two ranks those of one tag meet in their order, whatever others do.
  Pending send(at::Tensor x, int64_t to, int tag = 0) const;
  Pending receive(at::Tensor x, int64_t from, int tag = 0) const;
  void barrier() const;

  /// Sums and maxima of host values, for what all ranks must know: counts, and whether to go on.
  std::vector<int64_t> sum(std::vector<int64_t> values) const;
  int64_t sum(int64_t value) const { return sum(std::vector<int64_t>{value}).front(); }
  int64_t max(int64_t value) const;
  /// Every rank's text, in their order. One of a rank that throws away may be empty.
  std::vector<std::string> gather(const std::string& text) const;

  Traffic traffic() const;

 private:
  struct Shared;
  template <class Start>
  Pending run(Collective kind, const at::Tensor& x, const Start& start) const;
  std::shared_ptr<Shared> shared_;
};

}  // namespace trestle
