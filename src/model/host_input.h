// Between the host and a device: what the host knows of an input without asking, copies that nobody
// waits for, and reads that all wait for at once. Called by the model and by train.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace trestle {

/// Where `ids_T` is `id`, int64 on the CPU. Waits for a device where the ids are on one.
at::Tensor places_of(const at::Tensor& ids_T, int64_t id);

/// What a loss is taken of: places and ids of the labels that are not -100, int64 [N] on the CPU.
struct Targets {
  at::Tensor places_N, ids_N;

  static Targets of(const at::Tensor& labels_T);
  int64_t count() const { return places_N.size(0); }
};

/// On `device`; from the CPU to a card through pinned memory, behind what the card was asked for
/// before, so that the host goes on at once.
at::Tensor to_device(const at::Tensor& tensor, at::Device device);

/// The values of tensors of one element, of one dtype and device, in one read: the host waits once.
std::vector<double> read_scalars(const std::vector<at::Tensor>& scalars);

}  // namespace trestle
