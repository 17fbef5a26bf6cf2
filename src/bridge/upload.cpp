#include "bridge/upload.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

namespace trestle {

namespace {

class PlainTransfer : public Transfer {
 public:
  at::Tensor buffer(int64_t bytes) const override { return at::empty({bytes}, at::kByte); }
  void start(size_t, const at::Tensor& from, const at::Tensor& to) override { to.copy_(from); }
  void wait(size_t) override {}
};

class PinnedTransfer : public Transfer {
 public:
  explicit PinnedTransfer(at::Device device) : device_(device) {}

  at::Tensor buffer(int64_t bytes) const override {
    return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  }
  void start(size_t slot, const at::Tensor& from, const at::Tensor& to) override {
    // Cast on the card: on the way there it would be done here, and waited for.
    to.copy_(from.to(device_, /*non_blocking=*/true));
    if (slot >= events_.size()) events_.resize(slot + 1);
    events_[slot] = std::make_unique<c10::Event>(device_.type());
    events_[slot]->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  }
  void wait(size_t slot) override {
    if (slot < events_.size() && events_[slot]) events_[slot]->synchronize();
  }

 private:
  at::Device device_;
  std::vector<std::unique_ptr<c10::Event>> events_;
};

}  // namespace

std::unique_ptr<Transfer> make_transfer(at::Device device) {
  if (device.is_cuda()) return std::make_unique<PinnedTransfer>(device);
  return std::make_unique<PlainTransfer>();
}

Upload::~Upload() {
  try {
    finish();
  } catch (const std::exception& error) {
    fmt::print(stderr, "the last copy to the card failed: {}\n", error.what());
  }
}

std::byte* Upload::next(int64_t bytes) {
  slot_ = (slot_ + 1) % kSlots;
  if (under_way_[slot_]) transfer_->wait(slot_);
  under_way_[slot_] = false;
  at::Tensor& buffer = buffers_[slot_];
  if (!buffer.defined() || buffer.numel() < bytes) {
    buffer = transfer_->buffer(std::max<int64_t>(bytes, 1));
  }
  return static_cast<std::byte*>(buffer.mutable_data_ptr());
}

void Upload::send(at::ScalarType dtype, const at::Tensor& place) {
  const auto bytes = place.numel() * static_cast<int64_t>(c10::elementSize(dtype));
  const at::Tensor block = buffers_[slot_].narrow(0, 0, bytes).view(dtype).view(place.sizes());
  under_way_[slot_] = true;
  transfer_->start(slot_, block, place);
}

void Upload::finish() {
  for (size_t slot = 0; slot < kSlots; ++slot) {
    if (under_way_[slot]) transfer_->wait(slot);
    under_way_[slot] = false;
  }
}

}  // namespace trestle
