#include "train/gradient_sync.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "parallel/plan.h"
#include "train/model_part.h"

namespace trestle {

namespace {

// 25 MB of bf16 gradients, as torch's DistributedDataParallel has them in a bucket.
constexpr int64_t kBucketElements = 12 << 20;

at::Tensor squares(const AdamW::NamedTensors& parameters, const std::vector<bool>& taken,
                   at::Device device) {
  std::vector<at::Tensor> norms;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& gradient = parameters[i].second.grad();
    if (taken[i] && gradient.defined()) {
      norms.push_back(at::linalg_vector_norm(gradient, 2, {}, false, at::kFloat));
    }
  }
  if (norms.empty()) {
    return at::zeros({}, at::TensorOptions(device).dtype(at::kDouble));
  }
  return at::stack(norms).to(at::kDouble).square().sum();
}

}  // namespace

GradientSync::GradientSync(const AdamW::NamedTensors& parameters, const Ranks& ranks,
                           at::Device device)
    : parameters_(parameters),
      device_(device),
      model_(ranks.grid.model),
      host_(ranks.grid.whole_gradients) {
  // One kind where both are summed over the same ranks: fuller buckets.
  const bool one_kind = ranks.grid.tensor.is_one();
  std::vector<size_t> shared_out, whole;
  for (size_t i = parameters_.size(); i-- > 0;) {
    const bool is_shared_out = one_kind || split_of(parameters_[i].first) != Split::kReplicated;
    (is_shared_out ? shared_out : whole).push_back(i);
  }
  for (const auto& [name, parameter] : parameters_) {
    counted_.push_back(is_counted(ranks.grid, name));
  }
  add_buckets(shared_out, ranks.grid.gradients);
  add_buckets(whole, ranks.grid.whole_gradients);
}

void GradientSync::add_buckets(const std::vector<size_t>& members, const Group& group) {
  if (group.is_one()) return;
  int64_t elements = kBucketElements;
  for (const size_t i : members) {
    if (elements >= kBucketElements) {
      buckets_.push_back({.members = {}, .group = group, .flat = {}});
      elements = 0;
    }
    buckets_.back().members.push_back(i);
    elements += parameters_[i].second.numel();
  }
}

void GradientSync::fill(Bucket& bucket) {
  if (!bucket.flat.defined()) {
    int64_t elements = 0;
    for (const size_t i : bucket.members) elements += parameters_[i].second.numel();
    bucket.flat = at::empty({elements}, parameters_.front().second.options().dtype(at::kFloat));
  }
  int64_t at = 0;
  for (const size_t i : bucket.members) {
    const at::Tensor& parameter = parameters_[i].second;
    const at::Tensor place = bucket.flat.narrow(0, at, parameter.numel()).view(parameter.sizes());
    if (parameter.grad().defined()) {
      place.copy_(parameter.grad());
    } else {
      place.zero_();
    }
    at += parameter.numel();
  }
}

// How many ranks have a gradient of each parameter.
std::vector<int64_t> GradientSync::who_has_one() const {
  std::vector<int64_t> has;
  for (const auto& [name, parameter] : parameters_) has.push_back(parameter.grad().defined());
  return host_.sum(std::move(has));
}

void GradientSync::sum() {
  if (buckets_.empty()) return;
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> has = who_has_one();
  std::vector<Pending> pending;
  for (Bucket& bucket : buckets_) {
    fill(bucket);
    pending.push_back(bucket.group.all_reduce_async(bucket.flat));
  }
  for (Pending& each : pending) each.wait();
  for (const Bucket& bucket : buckets_) {
    int64_t at = 0;
    for (const size_t i : bucket.members) {
      const at::Tensor& parameter = parameters_[i].second;
      parameter.mutable_grad() =
          has[i] == 0 ? at::Tensor()
                      : bucket.flat.narrow(0, at, parameter.numel()).view(parameter.sizes());
      at += parameter.numel();
    }
  }
}

at::Tensor GradientSync::norm() const {
  const at::NoGradGuard no_grad;
  at::Tensor sum = squares(parameters_, counted_, device_);
  model_.all_reduce(sum);
  return sum.sqrt().to(at::kFloat);
}

}  // namespace trestle
