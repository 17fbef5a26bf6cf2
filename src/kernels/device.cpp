#include "kernels/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdlib>

#include "base/bytes.h"
#include "base/error.h"
#include "base/suggestion.h"

namespace trestle {

namespace {

constexpr std::string_view kCuda = "cuda";
// Of "cuda:N"; libtorch keeps it in 8 bits.
constexpr int kMostCards = 64;

// The number behind "cuda:", 0 of "cuda" alone; nothing of another text.
std::optional<int> card_of(std::string_view text) {
  if (text == kCuda) return 0;
  if (!text.starts_with("cuda:")) return std::nullopt;
  const std::string_view digits = text.substr(kCuda.size() + 1);
  int index = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  if (!whole || index < 0 || index >= kMostCards || digits != std::to_string(index)) {
    return std::nullopt;
  }
  return index;
}

}  // namespace

Cards cards_here() {
  const at::CUDAHooksInterface& hooks = at::detail::getCUDAHooks();
  const bool built = hooks.hasCUDART();
  return {built, built ? static_cast<int>(hooks.deviceCount()) : 0};
}

bool is_device_name(std::string_view text) {
  return text == "auto" || text == "cpu" || card_of(text).has_value();
}

std::string device_names(std::string_view text) {
  return "must be auto, cpu, cuda or cuda:N" + or_meant(text, {"auto", "cpu", "cuda"});
}

at::Device chosen_device(std::string_view text, std::string_view given) {
  return chosen_device(text, given, cards_here());
}

at::Device chosen_device(std::string_view text, std::string_view given, const Cards& cards) {
  if (!is_device_name(text)) user_error("{}: {}", given, device_names(text));
  const auto card = [](int index) {
    return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  };
  if (text == "cpu" || (text == "auto" && cards.count == 0)) return at::kCPU;
  if (text == "auto") return card(0);
  const int index = *card_of(text);
  if (!cards.built) {
    user_error(
        "{}: this build has no CUDA; make one with make cuda TORCH_PYTHON=/path/to/python "
        "(docs/gpu.md), or use cpu",
        given);
  }
  if (cards.count == 0) {
    user_error("{}: no card is there, or its driver is not (see nvidia-smi); use cpu", given);
  }
  if (index >= cards.count) {
    user_error("{}: {} {} there; use {}", given, cards.count,
               cards.count == 1 ? "card is" : "cards are",
               cards.count == 1 ? "cuda:0" : fmt::format("cuda:0 to cuda:{}", cards.count - 1));
  }
  return card(index);
}

std::optional<CardMemory> card_memory(at::Device device) {
  if (!device.is_cuda()) return std::nullopt;
  at::globalContext().lazyInitDevice(device.type());  // before it the allocator has no cards
  c10::DeviceAllocator& allocator = *at::getDeviceAllocator(device.type());
  const auto [free, total] = allocator.getMemoryInfo(device.index());
  const auto stats = allocator.getDeviceStats(device.index());
  // The first of each is the sum over pools of small and large blocks.
  return CardMemory{static_cast<int64_t>(total), static_cast<int64_t>(free),
                    stats.allocated_bytes[0].current, stats.allocated_bytes[0].peak};
}

std::string device_name(at::Device device) {
  if (!device.is_cuda()) return "the CPU";
  // libtorch tells a card's name in a header that needs CUDA's; the driver, which is loaded then,
  // in one call. Its ordinals are libtorch's: both count what CUDA_VISIBLE_DEVICES leaves.
  using NameOf = int (*)(char*, int, int);
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  const auto name_of =
      driver == nullptr ? nullptr : reinterpret_cast<NameOf>(::dlsym(driver, "cuDeviceGetName"));
  std::array<char, 256> name{};
  const bool known = name_of != nullptr &&
                     name_of(name.data(), static_cast<int>(name.size()) - 1, device.index()) == 0;
  if (driver != nullptr) ::dlclose(driver);
  return known ? name.data() : "a card without a name";
}

std::string describe_device(at::Device device, std::string_view asked) {
  if (const auto memory = card_memory(device)) {
    return fmt::format("{}, {}, {:.1f} GB of memory, {:.1f} GB free", device.str(),
                       device_name(device), gigabytes(static_cast<uint64_t>(memory->total)),
                       gigabytes(static_cast<uint64_t>(memory->free)));
  }
  return asked == "auto" && cards_here().built ? "the CPU: no card was found" : "";
}

DeterministicKernels::DeterministicKernels()
    : algorithms_(at::globalContext().deterministicAlgorithms()),
      fill_(at::globalContext().deterministicFillUninitializedMemory()),
      cudnn_(at::globalContext().deterministicCuDNN()) {
  // Of two workspaces cuBLAS may take either, and another order of sums with it. One that the user
  // has set stays.
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  // It would write NaN to all that is made empty, which nobody reads before it is filled.
  context.setDeterministicFillUninitializedMemory(false);
  context.setDeterministicCuDNN(true);
}

DeterministicKernels::~DeterministicKernels() {
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(algorithms_, /*warn_only=*/false);
  context.setDeterministicFillUninitializedMemory(fill_);
  context.setDeterministicCuDNN(cudnn_);
}

}  // namespace trestle
