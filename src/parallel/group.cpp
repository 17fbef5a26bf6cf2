#include "parallel/group.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cstring>
#include <mutex>
#include <numeric>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "base/text.h"
#include "parallel/journal.h"

namespace trestle {

namespace {

constexpr std::array<const char*, kCollectives> kNames = {
    "all_reduce", "all_gather", "reduce_scatter", "broadcast", "send", "receive"};

// Of Traffic::Kind::bytes. `bytes` are those of the whole: of all_gather's output, say.
int64_t sent(Collective kind, int64_t bytes, int64_t size, bool is_root) {
  switch (kind) {
    case Collective::kAllReduce:
      return 2 * bytes * (size - 1) / size;
    case Collective::kAllGather:
    case Collective::kReduceScatter:
      return bytes * (size - 1) / size;
    case Collective::kBroadcast:
      return is_root ? bytes : 0;
    case Collective::kSend:
      return bytes;
    case Collective::kReceive:
      return 0;
  }
  return 0;
}

int64_t bytes_of(const at::Tensor& x) { return static_cast<int64_t>(x.nbytes()); }

bool is_narrow(const at::Tensor& x) { return x.is_floating_point() && x.element_size() < 4; }

// Begins an all-reduce in x's place.
auto reduction(const at::Tensor& x, c10d::ReduceOp::RedOpType op) {
  return [x, op](c10d::Backend& backend) {
    std::vector<at::Tensor> tensors = {x};
    c10d::AllreduceOptions options;
    options.reduceOp = op;
    return backend.allreduce(tensors, options);
  };
}

std::vector<int64_t> widened_sizes(const at::Tensor& x, int64_t factor) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.front() *= factor;
  return sizes;
}

}  // namespace

int64_t Traffic::bytes() const {
  return std::accumulate(kinds.begin(), kinds.end(), int64_t{0},
                         [](int64_t sum, const Kind& kind) { return sum + kind.bytes; });
}

void Pending::wait() {
  if (!wait_) return;
  const auto wait = std::exchange(wait_, {});
  wait();
}

struct Group::Shared {
  std::string name;
  std::shared_ptr<Journal> journal;
  c10::intrusive_ptr<c10d::Backend> host, card;
  std::mutex mutex;
  Traffic traffic;

  [[noreturn]] void lost(const std::string& what, const std::exception& error) const {
    throw LostRank(fmt::format("rank {} of {} of the {} group: {} did not end: {}; {}",
                               host->getRank(), host->getSize(), name, what,
                               first_line(error.what()), journal->where()));
  }
};

Group::Group(std::string name, std::shared_ptr<Journal> journal,
             c10::intrusive_ptr<c10d::Backend> host, c10::intrusive_ptr<c10d::Backend> card) {
  if (host->getSize() == 1) return;
  shared_ = std::make_shared<Shared>();
  shared_->name = std::move(name);
  shared_->journal = std::move(journal);
  shared_->host = std::move(host);
  shared_->card = std::move(card);
}

int64_t Group::rank() const { return shared_ ? shared_->host->getRank() : 0; }
int64_t Group::size() const { return shared_ ? shared_->host->getSize() : 1; }

const std::string& Group::name() const {
  static const std::string one = "one";
  return shared_ ? shared_->name : one;
}

Traffic Group::traffic() const {
  if (!shared_) return {};
  const std::scoped_lock lock(shared_->mutex);
  return shared_->traffic;
}

// `start` begins the collective; x is what its bytes are counted by.
template <class Start>
Pending Group::run(Collective kind, const at::Tensor& x, const Start& start) const {
  const std::string what = fmt::format("{} of [{}] over {}", kNames[static_cast<size_t>(kind)],
                                       fmt::join(x.sizes().vec(), ", "), shared_->name);
  shared_->journal->begin(what);
  {
    const std::scoped_lock lock(shared_->mutex);
    Traffic::Kind& counted = shared_->traffic.of(kind);
    ++counted.calls;
    counted.bytes += sent(kind, bytes_of(x), size(), true);
  }
  c10d::Backend* backend = x.is_cpu() ? shared_->host.get() : shared_->card.get();
  TORCH_CHECK(backend != nullptr, "the ", shared_->name, " group exchanges nothing of ",
              x.device());
  try {
    return Pending([shared = shared_, what, x, work = start(*backend)] {
      try {
        work->wait();
        shared->journal->end();
      } catch (const std::exception& error) {
        shared->lost(what, error);
      }
    });
  } catch (const std::exception& error) {
    shared_->lost(what, error);
  }
}

void Group::all_reduce(at::Tensor& x) const {
  if (!shared_) return;
  at::Tensor wide = is_narrow(x) ? x.to(at::kFloat) : x;
  all_reduce_async(wide).wait();
  if (!wide.is_same(x)) x.copy_(wide);
}

void Group::all_reduce_max(at::Tensor& x) const {
  if (!shared_) return;
  run(Collective::kAllReduce, x, reduction(x, c10d::ReduceOp::MAX)).wait();
}

Pending Group::all_reduce_async(const at::Tensor& x) const {
  if (!shared_) return {};
  return run(Collective::kAllReduce, x, reduction(x, c10d::ReduceOp::SUM));
}

at::Tensor Group::all_gather(const at::Tensor& x) const {
  if (!shared_) return x;
  at::Tensor out = at::empty(widened_sizes(x, size()), x.options());
  all_gather_async(out, x.contiguous()).wait();
  return out;
}

Pending Group::all_gather_async(at::Tensor out, at::Tensor x) const {
  if (!shared_) {
    out.copy_(x);
    return {};
  }
  return run(Collective::kAllGather, out,
             [&](c10d::Backend& backend) { return backend._allgather_base(out, x); });
}

at::Tensor Group::reduce_scatter(const at::Tensor& x) const {
  if (!shared_) return x;
  const at::Tensor wide = x.to(is_narrow(x) ? at::kFloat : x.scalar_type()).contiguous();
  std::vector<int64_t> sizes = x.sizes().vec();
  TORCH_CHECK(sizes.front() % size() == 0, sizes.front(), " rows for ", size(), " ranks");
  sizes.front() /= size();
  at::Tensor out = at::empty(sizes, wide.options());
  reduce_scatter_async(out, wide).wait();
  return out.to(x.scalar_type());
}

Pending Group::reduce_scatter_async(at::Tensor out, at::Tensor x) const {
  if (!shared_) {
    out.copy_(x);
    return {};
  }
  return run(Collective::kReduceScatter, x,
             [&](c10d::Backend& backend) { return backend._reduce_scatter_base(out, x); });
}

void Group::broadcast(at::Tensor& x, int64_t root) const {
  if (!shared_) return;
  run(Collective::kBroadcast, x, [&](c10d::Backend& backend) {
    std::vector<at::Tensor> tensors = {x};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return backend.broadcast(tensors, options);
  }).wait();
}

Pending Group::send(at::Tensor x, int64_t to, int tag) const {
  TORCH_CHECK(shared_, "a group of one has nobody to send to");
  return run(Collective::kSend, x, [&](c10d::Backend& backend) {
    std::vector<at::Tensor> tensors = {x};
    return backend.send(tensors, static_cast<int>(to), tag);
  });
}

Pending Group::receive(at::Tensor x, int64_t from, int tag) const {
  TORCH_CHECK(shared_, "a group of one has nobody to receive from");
  return run(Collective::kReceive, x, [&](c10d::Backend& backend) {
    std::vector<at::Tensor> tensors = {x};
    return backend.recv(tensors, static_cast<int>(from), tag);
  });
}

void Group::barrier() const { sum(0); }

std::vector<int64_t> Group::sum(std::vector<int64_t> values) const {
  if (!shared_) return values;
  at::Tensor all = at::tensor(values, at::kLong);
  all_reduce(all);
  std::copy_n(all.const_data_ptr<int64_t>(), values.size(), values.begin());
  return values;
}

int64_t Group::max(int64_t value) const {
  if (!shared_) return value;
  at::Tensor largest = at::full({1}, value, at::kLong);
  all_reduce_max(largest);
  return largest.item<int64_t>();
}

std::vector<std::string> Group::gather(const std::string& text) const {
  if (!shared_) return {text};
  const int64_t longest = max(static_cast<int64_t>(text.size()));
  const at::Tensor lengths =
      all_gather(at::full({1}, static_cast<int64_t>(text.size()), at::kLong));
  at::Tensor mine = at::zeros({1, std::max<int64_t>(longest, 1)}, at::kByte);
  std::memcpy(mine.mutable_data_ptr(), text.data(), text.size());
  const at::Tensor all = all_gather(mine);
  std::vector<std::string> texts;
  for (int64_t i = 0; i < size(); ++i) {
    const auto* bytes = static_cast<const char*>(all.select(0, i).const_data_ptr());
    texts.emplace_back(bytes, static_cast<size_t>(lengths[i].item<int64_t>()));
  }
  return texts;
}

}  // namespace trestle
