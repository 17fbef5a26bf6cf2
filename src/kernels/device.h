// Where a model lives: the CPU or one card. Chosen by the commands' --device and by train.device,
// told on stderr. libtorch is asked through what it has in every build, so that this is one source
// with CUDA and without.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// What libtorch has of CUDA here.
struct Cards {
  /// It is a CUDA build.
  bool built = false;
  int count = 0;
};
Cards cards_here();

/// "auto", "cpu", "cuda", "cuda:1".
bool is_device_name(std::string_view text);
/// What is said of another text: those that there are, and the one that may have been meant.
std::string device_names(std::string_view text);

/// `auto` is the first card where there is one, else the CPU. Throws UserError for another text,
/// for a card in a build without CUDA, and for one that is not there; `given` is how it was given,
/// "--device cuda:7".
at::Device chosen_device(std::string_view text, std::string_view given);
at::Device chosen_device(std::string_view text, std::string_view given, const Cards& cards);

/// Bytes of a card's memory; nothing of the CPU.
struct CardMemory {
  int64_t total = 0, free = 0;
  /// Held by tensors of this process, now and at most since it began.
  int64_t allocated = 0, peak = 0;
};
std::optional<CardMemory> card_memory(at::Device device);

/// As the driver calls it: "NVIDIA H200"; "the CPU".
std::string device_name(at::Device device);

/// "cuda:0, NVIDIA H200, 150.1 GB of memory, 149.5 GB free"; of the CPU in a CUDA build "the CPU:
/// no card was found"; empty where there is no choice.
std::string describe_device(at::Device device, std::string_view asked);

/// The whole process takes kernels that sum in one order, to the end of the scope; libtorch then
/// refuses those that have no such form. On the CPU every sum has one order anyway. Made before the
/// first product on a card: cuBLAS reads its workspace's size once.
class DeterministicKernels {
 public:
  DeterministicKernels();
  ~DeterministicKernels();
  DeterministicKernels(const DeterministicKernels&) = delete;
  DeterministicKernels& operator=(const DeterministicKernels&) = delete;

 private:
  bool algorithms_, fill_, cudnn_;
};

}  // namespace trestle
