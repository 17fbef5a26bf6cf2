#include "model/host_input.h"

#include <ATen/ATen.h>

#include <iterator>
#include <vector>

namespace trestle {

namespace {

// Places i of ids with wanted(ids[i]). A loop of the host's own: nonzero() is an operator that a
// step must not meet (tests/train/test_host_reads.cpp), as on a card it waits.
template <class Wanted>
at::Tensor places_where(const at::Tensor& ids_T, const Wanted& wanted) {
  const at::Tensor host = ids_T.to(at::kCPU, at::kLong).contiguous();
  const auto* ids = host.const_data_ptr<int64_t>();
  std::vector<int64_t> places;
  for (int64_t i = 0; i < host.numel(); ++i) {
    if (wanted(ids[i])) places.push_back(i);
  }
  // A copy of the host's memory, and no tensor made by the model: tests/bridge/test_device.cpp.
  return at::from_blob(places.data(), {std::ssize(places)}, at::kLong).clone();
}

}  // namespace

at::Tensor places_of(const at::Tensor& ids_T, int64_t id) {
  return places_where(ids_T, [&](int64_t each) { return each == id; });
}

Targets Targets::of(const at::Tensor& labels_T) {
  const at::Tensor places = places_where(labels_T, [](int64_t label) { return label != -100; });
  return {places, labels_T.cpu().index_select(0, places)};
}

at::Tensor to_device(const at::Tensor& tensor, at::Device device) {
  const bool to_card = tensor.is_cpu() && device.is_cuda();
  return to_card ? tensor.pin_memory().to(device, /*non_blocking=*/true) : tensor.to(device);
}

std::vector<double> read_scalars(const std::vector<at::Tensor>& scalars) {
  if (scalars.empty()) return {};
  const at::Tensor read = at::stack(scalars).to(at::kCPU, at::kDouble);
  const auto* first = read.const_data_ptr<double>();
  return {first, first + read.numel()};
}

}  // namespace trestle
