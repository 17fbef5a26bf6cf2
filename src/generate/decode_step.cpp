#include "generate/decode_step.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <optional>

#include "kernels/graph.h"
#include "model/host_input.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

DeviceSampling on_device(const SamplingOptions& options) {
  return {options.temperature, options.top_k, options.top_p, options.min_p, options.seed};
}

}  // namespace

// A card's stream for the steps, the graph of one, and events behind their results.
class DecodeStep::Replay {
 public:
  explicit Replay(at::Device device) : device_(device), guard_impl_(device.type()) {
    // Behind the prefill, which is on another stream.
    c10::Event prefilled(device.type());
    prefilled.record(guard_impl_.getStream(device));
    prefilled.block(stream_);
  }

  // What the steps use is freed behind them.
  ~Replay() {
    try {
      stream_.synchronize();
    } catch (const std::exception& error) {
      fmt::print(stderr, "the last step on the card failed: {}\n", error.what());
    }
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // The first step is computed as it is, so that whatever libraries set up is there when the second
  // is captured.
  void run(const std::function<void()>& compute) {
    if (!is_warm_ || !Graph::can_capture(device_)) {
      is_warm_ = true;
      return compute();
    }
    if (!graph_.is_captured()) graph_.capture(compute);
    graph_.replay();
  }

  c10::Stream stream() const { return stream_; }
  void record(size_t slot) { events_[slot].record(stream_); }
  void wait(size_t slot) { events_[slot].synchronize(); }

 private:
  at::Device device_;
  c10::impl::VirtualGuardImpl guard_impl_;
  c10::Stream stream_ = guard_impl_.getStreamFromGlobalPool(device_);
  std::array<c10::Event, 2> events_{c10::Event(device_.type()), c10::Event(device_.type())};
  Graph graph_;
  bool is_warm_ = false;
};

bool can_step(const Ministral3& model, const SamplingOptions& options) {
  const Build& build = model.build();
  return options.logprobs == 0 &&
         can_sample(on_device(options), build.device, build.dtype, model.config().text.vocab_size);
}

DecodeStep::DecodeStep(const Ministral3& model, const SamplingOptions& options,
                       const std::vector<int64_t>& ids, KvCache& cache)
    : model_(model),
      cache_(cache),
      sampling_(on_device(options)),
      packing_(std::vector<int64_t>(ids.size(), 1)) {
  const at::Device device = model.build().device;
  cache_.fix();
  ids_B_ = to_device(at::tensor(ids, at::kLong), device);
  chosen_B_ = at::zeros_like(ids_B_);
  step_ = at::zeros({1}, ids_B_.options());
  for (at::Tensor& read : read_) {
    read = at::empty({std::ssize(ids)},
                     at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda()));
  }
  if (device.is_cuda()) replay_ = std::make_unique<Replay>(device);
}

DecodeStep::~DecodeStep() = default;

void DecodeStep::compute() {
  const LanguageModel& language = model_.language_model();
  at::Tensor x_BD = language.embed(ids_B_);
  const LayerContext context =
      language.context(cache_.positions(), packing_, &cache_, x_BD.scalar_type());
  x_BD = language.layers(std::move(x_BD), 0, language.num_layers(), context);
  sample_out(chosen_B_, language.head(x_BD), sampling_, step_);
  // Nobody reads what follows logits that are not finite, but it is looked up.
  at::clamp_min_out(ids_B_, chosen_B_, 0);
  cache_.positions().add_(1);
  step_.add_(1);
}

void DecodeStep::launch() {
  TORCH_CHECK(launched_ - taken_ < 2, "two steps are under way");
  const auto slot = static_cast<size_t>(launched_++ % 2);
  if (!replay_) {
    compute();
    read_[slot].copy_(chosen_B_);
    return;
  }
  const c10::StreamGuard guard(replay_->stream());
  replay_->run([this] { compute(); });
  read_[slot].copy_(chosen_B_, /*non_blocking=*/true);
  replay_->record(slot);
}

std::vector<int64_t> DecodeStep::take() {
  TORCH_CHECK(taken_ < launched_, "no step is under way");
  const auto slot = static_cast<size_t>(taken_++ % 2);
  if (replay_) replay_->wait(slot);
  const auto* first = read_[slot].const_data_ptr<int64_t>();
  std::vector<int64_t> ids(first, first + read_[slot].numel());
  for (const int64_t id : ids) {
    if (id < 0) refuse_logits(model_.build().dtype);
  }
  return ids;
}

}  // namespace trestle
