// Blocks of a checkpoint on their way to a card: one is copied while the next is read. Called by
// load.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <memory>

namespace trestle {

/// How blocks get from the machine's memory to a device. A slot is a place for one of them on its
/// way.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Machine memory that start() can copy from: uint8 [bytes].
  virtual at::Tensor buffer(int64_t bytes) const = 0;
  /// Begins to copy `from` to `to`, casting; may return before it is done.
  virtual void start(size_t slot, const at::Tensor& from, const at::Tensor& to) = 0;
  /// Until the copy that was started last in `slot` is done.
  virtual void wait(size_t slot) = 0;
};

/// Of a card by pinned memory, its copies beside the host's work; of another device plain copies,
/// done when start() returns.
std::unique_ptr<Transfer> make_transfer(at::Device device);

/// The last blocks are there when finish() has returned; without it (an error is on its way up)
/// nothing of them is waited for but their memory.
class Upload {
 public:
  explicit Upload(std::unique_ptr<Transfer> transfer) : transfer_(std::move(transfer)) {}
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  /// Room for `bytes` of the next block; what was sent from it before is through.
  std::byte* next(int64_t bytes);
  /// Sends that block, which has values of `dtype` in the shape of `place`.
  void send(at::ScalarType dtype, const at::Tensor& place);
  void finish();

 private:
  static constexpr size_t kSlots = 2;

  std::unique_ptr<Transfer> transfer_;
  std::array<at::Tensor, kSlots> buffers_;
  std::array<bool, kSlots> under_way_{};
  size_t slot_ = 0;
};

}  // namespace trestle
