#include "train/gradient_sync.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "parallel/buckets.h"
#include "parallel/plan.h"
#include "train/model_part.h"

namespace trestle {

namespace {

// Elements [first, first + n) of the parameter, as a row.
at::Tensor run_of(const at::Tensor& parameter, int64_t first, int64_t n) {
  return parameter.detach().reshape(-1).narrow(0, first, n);
}

}  // namespace

struct GradientSync::Hook : torch::autograd::PostAccumulateGradHook {
  Hook(GradientSync& owner, size_t parameter) : sync(owner), index(parameter) {}
  void operator()(const torch::autograd::Variable& /*parameter*/) override {
    sync.gradient_is_there(index);
  }
  GradientSync& sync;
  size_t index;
};

GradientSync::GradientSync(const AdamW::NamedTensors& parameters, const Grid& grid,
                           at::Device device, bool distributed)
    : parameters_(parameters),
      device_(device),
      distributed_(distributed),
      host_(grid.whole_gradients),
      sharing_(distributed ? grid.world : grid.model),
      place_of_(parameters.size()),
      has_(parameters.size(), 0) {
  // One kind where both are summed over the same ranks: fuller buckets.
  const bool one_kind = grid.tensor.is_one();
  std::vector<size_t> slices, whole;
  for (size_t i = parameters_.size(); i-- > 0;) {
    const bool is_slice = one_kind || split_of(parameters_[i].first) != Split::kReplicated;
    (is_slice ? slices : whole).push_back(i);
  }
  for (const auto& [name, parameter] : parameters_) {
    counted_.push_back(is_counted(grid, name, distributed));
  }
  add_buckets(slices, grid.gradients);
  add_buckets(whole, grid.whole_gradients);
  share_out();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameters_[i].second,
                                                   std::make_unique<Hook>(*this, i));
  }
}

GradientSync::~GradientSync() {
  for (const auto& [name, parameter] : parameters_) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
}

void GradientSync::add_buckets(const std::vector<size_t>& members, const Group& group) {
  if (group.is_one()) return;
  std::map<at::ScalarType, std::vector<size_t>> by_type;
  for (const size_t i : members) by_type[parameters_[i].second.scalar_type()].push_back(i);
  for (const auto& [type, some] : by_type) {
    std::vector<int64_t> elements;
    for (const size_t i : some) elements.push_back(parameters_[i].second.numel());
    const std::vector<size_t> starts = bucket_starts(elements);
    for (size_t k = 0; k < some.size(); ++k) {
      if (std::ranges::binary_search(starts, k)) {
        buckets_.emplace_back();
        buckets_.back().group = group;
      }
      Bucket& bucket = buckets_.back();
      bucket.members.push_back(some[k]);
      place_of_[some[k]] = {.bucket = buckets_.size() - 1, .at = bucket.elements};
      bucket.elements += elements[k];
    }
  }
  for (Bucket& bucket : buckets_) {
    const int64_t size = bucket.group.size();
    bucket.elements = (bucket.elements + size - 1) / size * size;
  }
}

GradientSync::OwnRun GradientSync::own_run(const Bucket& bucket, size_t parameter) const {
  const int64_t own = bucket.elements / bucket.group.size();
  const int64_t begin = own * bucket.group.rank(), at = place_of_[parameter].at;
  const int64_t from = std::max(begin, at);
  const int64_t to = std::min(begin + own, at + parameters_[parameter].second.numel());
  return {from - at, std::max<int64_t>(to - from, 0), from - begin};
}

// Whole parameters, or what is this rank's of each.
void GradientSync::share_out() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, parameter] = parameters_[i];
    const auto& [bucket, at] = place_of_[i];
    ParameterPart part{
        .name = name, .tensor = parameter, .first = 0, .sizes = parameter.sizes().vec()};
    PartPlace place{.parameter = i, .at = at};
    if (distributed_ && bucket) {
      const OwnRun run = own_run(buckets_[*bucket], i);
      if (run.count == 0) continue;
      TORCH_CHECK(parameter.is_contiguous(), name, " is not dense");
      part.tensor = run_of(parameter, run.first, run.count);
      part.first = run.first;
      place.at = run.at;
    }
    parts_.push_back(std::move(part));
    places_.push_back(place);
  }
  if (!distributed_) return;
  for (Bucket& bucket : buckets_) {
    bucket.own_gradients = at::empty({bucket.elements / bucket.group.size()},
                                     at::TensorOptions().dtype(at::kFloat).device(device_));
  }
}

void GradientSync::begin() {
  is_last_pass_ = true;
  for (Bucket& bucket : buckets_) bucket.missing = std::ssize(bucket.members);
}

// Buckets go in one order on all ranks, whatever the order in which gradients come.
void GradientSync::gradient_is_there(size_t parameter) {
  const auto index = place_of_[parameter].bucket;
  if (!is_last_pass_ || !index) return;
  Bucket& bucket = buckets_[*index];
  TORCH_CHECK(!bucket.is_sent, parameters_[parameter].first, " got a gradient behind its last one");
  --bucket.missing;
  while (next_ < buckets_.size() && buckets_[next_].missing <= 0) send(next_++);
}

void GradientSync::send(size_t index) {
  Bucket& bucket = buckets_[index];
  if (distributed_) {
    if (index >= sending_.size()) buckets_[index - sending_.size()].pending.wait();
    at::Tensor& room = sending_[index % sending_.size()];
    if (!room.defined() || room.numel() < bucket.elements) {
      room = at::Tensor();
      room = at::empty({bucket.elements}, at::TensorOptions().dtype(at::kFloat).device(device_));
    }
    bucket.flat = room.narrow(0, 0, bucket.elements);
  } else if (!bucket.flat.defined()) {
    bucket.flat =
        at::empty({bucket.elements}, at::TensorOptions().dtype(at::kFloat).device(device_));
  }
  fill(bucket);
  bucket.is_sent = true;
  bucket.pending = distributed_
                       ? bucket.group.reduce_scatter_async(bucket.own_gradients, bucket.flat)
                       : bucket.group.all_reduce_async(bucket.flat);
}

// What is in the bucket needs no gradient of its own any more.
void GradientSync::fill(Bucket& bucket) {
  const at::NoGradGuard no_grad;
  int64_t end = 0;
  for (const size_t i : bucket.members) {
    const at::Tensor& parameter = parameters_[i].second;
    const int64_t at = place_of_[i].at;
    const at::Tensor place = bucket.flat.narrow(0, at, parameter.numel()).view(parameter.sizes());
    end = at + parameter.numel();
    if (parameter.grad().defined()) {
      has_[i] = 1;
      place.copy_(parameter.grad());
      parameter.mutable_grad() = at::Tensor();
    } else {
      place.zero_();
    }
  }
  bucket.flat.narrow(0, end, bucket.elements - end).zero_();
}

void GradientSync::sum() {
  for (; next_ < buckets_.size(); ++next_) send(next_);
  const std::vector<int64_t> has = host_.sum(has_);
  for (Bucket& bucket : buckets_) {
    bucket.pending.wait();
    bucket.is_sent = false;
    if (distributed_) bucket.flat = at::Tensor();
  }
  std::ranges::fill(has_, 0);
  is_last_pass_ = false;
  next_ = 0;
  hand_out(has);
}

// `has`: how many ranks have a gradient of each parameter.
void GradientSync::hand_out(const std::vector<int64_t>& has) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    const auto [parameter, at] = places_[i];
    const auto index = place_of_[parameter].bucket;
    if (!index || has[parameter] == 0) continue;
    const Bucket& bucket = buckets_[*index];
    const at::Tensor& tensor = parts_[i].tensor;
    tensor.mutable_grad() = (distributed_ ? bucket.own_gradients : bucket.flat)
                                .narrow(0, at, tensor.numel())
                                .view(tensor.sizes());
  }
}

at::Tensor GradientSync::norm() const {
  const at::NoGradGuard no_grad;
  at::Tensor squares = at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device_));
  for (size_t i = 0; i < parts_.size(); ++i) {
    const at::Tensor& gradient = parts_[i].tensor.grad();
    if (!counted_[places_[i].parameter] || !gradient.defined()) continue;
    squares += at::linalg_vector_norm(gradient, 2, {}, false, at::kFloat).to(at::kDouble).square();
  }
  sharing_.all_reduce(squares);
  return squares.sqrt().to(at::kFloat);
}

GradientSync::Gathering GradientSync::gather(const Bucket& bucket) const {
  const auto options = parameters_[bucket.members.front()].second.options().requires_grad(false);
  Gathering made{at::zeros({bucket.elements / bucket.group.size()}, options),
                 at::empty({bucket.elements}, options),
                 {}};
  for (const size_t i : bucket.members) {
    const OwnRun run = own_run(bucket, i);
    if (run.count == 0) continue;
    made.own.narrow(0, run.at, run.count)
        .copy_(run_of(parameters_[i].second, run.first, run.count));
  }
  // As bytes: what is only moved needs no type that the backend knows.
  made.pending = bucket.group.all_gather_async(made.all.view(at::kByte), made.own.view(at::kByte));
  return made;
}

void GradientSync::share_updates() {
  if (!distributed_ || buckets_.empty()) return;
  const at::NoGradGuard no_grad;
  Gathering next = gather(buckets_.front());
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Gathering here = std::exchange(next, {});
    here.pending.wait();
    if (i + 1 < buckets_.size()) next = gather(buckets_[i + 1]);
    for (const size_t member : buckets_[i].members) {
      const at::Tensor& parameter = parameters_[member].second;
      parameter.copy_(
          here.all.narrow(0, place_of_[member].at, parameter.numel()).view(parameter.sizes()));
    }
  }
}

}  // namespace trestle
