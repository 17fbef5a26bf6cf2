#include "linear/base_shards.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace trestle {

namespace {

// Of a tensor's first byte: what vector instructions and every type ask for.
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void BaseShards::take(int64_t layer, const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  Layer& made = layers_[layer];
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) {
      made.places.push_back({at::ScalarType::Undefined, {}, made.bytes, 0});
      continue;
    }
    const auto bytes = static_cast<int64_t>(tensor.nbytes());
    made.places.push_back({tensor.scalar_type(), tensor.sizes().vec(), made.bytes, bytes});
    made.bytes = aligned(made.bytes + bytes);
  }
  const int64_t share = aligned((made.bytes + group_.size() - 1) / group_.size());
  made.bytes = share * group_.size();
  const auto options = at::TensorOptions(at::kByte).device(tensors.front().device());
  made.part = at::zeros({share}, options);
  const int64_t begin = share * group_.rank(), end = begin + share;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Place& place = made.places[i];
    const int64_t from = std::max(begin, place.first);
    const int64_t to = std::min(end, place.first + place.bytes);
    if (from >= to) continue;
    const at::Tensor bytes = tensors[i].detach().contiguous().view(-1).view(at::kByte);
    made.part.narrow(0, from - begin, to - from)
        .copy_(bytes.narrow(0, from - place.first, to - from));
  }
}

void BaseShards::fetch(int64_t layer) {
  const Layer& asked = layers_.at(layer);
  next_ = {.layer = layer, .bytes = at::empty({asked.bytes}, asked.part.options()), .pending = {}};
  next_.pending = group_.all_gather_async(next_.bytes, asked.part);
}

void BaseShards::visit(int64_t layer) {
  if (layer == here_) return;
  tensors_.clear();
  if (next_.layer != layer) fetch(layer);
  Gathered gathered = std::exchange(next_, {});
  gathered.pending.wait();
  here_ = layer;
  for (const Place& place : layers_.at(layer).places) {
    if (place.dtype == at::ScalarType::Undefined) {
      tensors_.emplace_back();
      continue;
    }
    tensors_.push_back(
        gathered.bytes.narrow(0, place.first, place.bytes).view(place.dtype).view(place.sizes));
  }
}

// The next other layer comes while this one is worked with.
void BaseShards::advance() {
  visit(visits_[done_++]);
  const auto after = std::find_if(visits_.begin() + static_cast<std::ptrdiff_t>(done_),
                                  visits_.end(), [&](int64_t each) { return each != here_; });
  if (after != visits_.end() && next_.layer != *after) fetch(*after);
}

const std::vector<at::Tensor>& BaseShards::tensors(int64_t layer) {
  const at::NoGradGuard no_grad;
  if (visits_.empty()) visit(layer);
  while (here_ != layer) {
    TORCH_CHECK(done_ < visits_.size(), "layer ", layer, " is asked for outside of its pass");
    advance();
  }
  return tensors_;
}

void BaseShards::begin(std::vector<int64_t> visits) {
  TORCH_CHECK(visits_.empty(), "a pass begins in another");
  visits_ = std::move(visits);
  done_ = 0;
}

void BaseShards::end() {
  const at::NoGradGuard no_grad;
  while (done_ < visits_.size()) advance();
  visits_.clear();
}

int64_t BaseShards::bytes() const {
  int64_t bytes = 0;
  for (const auto& [number, layer] : layers_) bytes += layer.part.numel();
  return bytes;
}

int64_t BaseShards::largest_layer() const {
  int64_t bytes = 0;
  for (const auto& [number, layer] : layers_) bytes = std::max(bytes, layer.bytes);
  return bytes;
}

}  // namespace trestle
