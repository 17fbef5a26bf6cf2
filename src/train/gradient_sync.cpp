#include "train/gradient_sync.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <string_view>

#include "parallel/plan.h"
#include "train/model_part.h"

namespace trestle {

namespace {

// 25 MB of bf16 gradients, as torch's DistributedDataParallel has them in a bucket.
constexpr int64_t kBucketElements = 12 << 20;

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
      bucket_of_(parameters.size()),
      place_of_(parameters.size()) {
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
  const size_t first = buckets_.size();
  at::ScalarType type = at::ScalarType::Undefined;
  for (const size_t i : members) {
    const at::Tensor& parameter = parameters_[i].second;
    if (buckets_.size() == first || buckets_.back().elements >= kBucketElements ||
        parameter.scalar_type() != type) {
      buckets_.emplace_back();
      buckets_.back().group = group;
      type = parameter.scalar_type();
    }
    Bucket& bucket = buckets_.back();
    bucket.members.push_back(i);
    bucket_of_[i] = buckets_.size() - 1;
    place_of_[i] = bucket.elements;
    bucket.elements += parameter.numel();
  }
  for (size_t i = first; i < buckets_.size(); ++i) {
    const int64_t size = group.size();
    buckets_[i].elements = (buckets_[i].elements + size - 1) / size * size;
  }
}

void GradientSync::share_out() {
  if (distributed_) {
    for (size_t i = 0; i < buckets_.size(); ++i) share_out(i);
  } else {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const auto& [name, parameter] = parameters_[i];
      parts_.push_back(
          {.name = name, .tensor = parameter, .first = 0, .sizes = parameter.sizes().vec()});
      places_.push_back({.parameter = i, .bucket = bucket_of_[i], .at = 0});
    }
  }
  // Parts came by buckets, which run backward.
  std::vector<size_t> order(parts_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return places_[i].parameter; });
  std::vector<ParameterPart> parts;
  std::vector<PartPlace> places;
  for (const size_t i : order) {
    parts.push_back(parts_[i]);
    places.push_back(places_[i]);
  }
  parts_ = std::move(parts);
  places_ = std::move(places);
}

// This rank's elements of a bucket, a part of each parameter that they touch.
void GradientSync::share_out(size_t index) {
  const at::NoGradGuard no_grad;
  Bucket& bucket = buckets_[index];
  const int64_t own = bucket.elements / bucket.group.size();
  const int64_t begin = own * bucket.group.rank(), end = begin + own;
  const at::TensorOptions options = parameters_[bucket.members.front()].second.options();
  bucket.own_weights = at::zeros({own}, options.requires_grad(false));
  bucket.own_gradients = at::empty({own}, options.dtype(at::kFloat).requires_grad(false));
  for (const size_t i : bucket.members) {
    const auto& [name, parameter] = parameters_[i];
    const int64_t from = std::max(begin, place_of_[i]);
    const int64_t to = std::min(end, place_of_[i] + parameter.numel());
    if (from >= to) continue;
    const at::Tensor weights = bucket.own_weights.narrow(0, from - begin, to - from);
    weights.copy_(run_of(parameter, from - place_of_[i], to - from));
    parts_.push_back({.name = name,
                      .tensor = weights,
                      .first = from - place_of_[i],
                      .sizes = parameter.sizes().vec()});
    places_.push_back({.parameter = i, .bucket = index, .at = from - begin});
  }
}

void GradientSync::begin() {
  is_last_pass_ = true;
  for (Bucket& bucket : buckets_) bucket.missing = std::ssize(bucket.members);
}

void GradientSync::gradient_is_there(size_t parameter) {
  if (!is_last_pass_) return;
  Bucket& bucket = buckets_[bucket_of_[parameter]];
  TORCH_CHECK(!bucket.is_sent, parameters_[parameter].first, " got a gradient behind its last one");
  --bucket.missing;
  send_ready();
}

// In one order on all ranks, whatever the order in which gradients come.
void GradientSync::send_ready() {
  while (next_ < buckets_.size() && buckets_[next_].missing <= 0) send(buckets_[next_++]);
}

void GradientSync::send(Bucket& bucket) {
  fill(bucket);
  bucket.is_sent = true;
  bucket.pending = distributed_
                       ? bucket.group.reduce_scatter_async(bucket.own_gradients, bucket.flat)
                       : bucket.group.all_reduce_async(bucket.flat);
}

void GradientSync::fill(Bucket& bucket) {
  const at::NoGradGuard no_grad;
  if (!bucket.flat.defined()) {
    bucket.flat =
        at::zeros({bucket.elements}, at::TensorOptions().dtype(at::kFloat).device(device_));
  }
  for (const size_t i : bucket.members) {
    const at::Tensor& parameter = parameters_[i].second;
    const at::Tensor place =
        bucket.flat.narrow(0, place_of_[i], parameter.numel()).view(parameter.sizes());
    if (parameter.grad().defined()) {
      place.copy_(parameter.grad());
    } else {
      place.zero_();
    }
  }
}

void GradientSync::sum() {
  for (; next_ < buckets_.size(); ++next_) send(buckets_[next_]);
  std::vector<int64_t> has;
  for (const auto& [name, parameter] : parameters_) has.push_back(parameter.grad().defined());
  has = host_.sum(std::move(has));
  for (Bucket& bucket : buckets_) {
    bucket.pending.wait();
    bucket.is_sent = false;
  }
  is_last_pass_ = false;
  next_ = 0;
  hand_out(has);
}

// `has`: how many ranks have a gradient of each parameter.
void GradientSync::hand_out(const std::vector<int64_t>& has) {
  for (const auto& [name, parameter] : parameters_) parameter.mutable_grad() = at::Tensor();
  for (size_t i = 0; i < parts_.size(); ++i) {
    const auto& [parameter, index, at] = places_[i];
    if (has[parameter] == 0) continue;
    const Bucket& bucket = buckets_[index];
    const at::Tensor& tensor = parts_[i].tensor;
    const at::Tensor sums = distributed_
                                ? bucket.own_gradients.narrow(0, at, tensor.numel())
                                : bucket.flat.narrow(0, place_of_[parameter], tensor.numel());
    tensor.mutable_grad() = sums.view(tensor.sizes());
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

void GradientSync::share_updates() {
  if (!distributed_) return;
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> all;
  std::vector<Pending> pending;
  for (const Bucket& bucket : buckets_) {
    all.push_back(at::empty({bucket.elements}, bucket.own_weights.options()));
    // As bytes: what is only moved needs no type that the backend knows.
    pending.push_back(bucket.group.all_gather_async(all.back().view(at::kByte),
                                                    bucket.own_weights.view(at::kByte)));
  }
  for (size_t i = 0; i < buckets_.size(); ++i) {
    pending[i].wait();
    for (const size_t member : buckets_[i].members) {
      const at::Tensor& parameter = parameters_[member].second;
      parameter.copy_(
          all[i].narrow(0, place_of_[member], parameter.numel()).view(parameter.sizes()));
    }
  }
}

}  // namespace trestle
