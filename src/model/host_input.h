// What the host knows of an input, found without asking a device: where ids stand, and copies that
// nobody waits for. Called by the model.
#pragma once

#include <ATen/core/Tensor.h>

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

}  // namespace trestle
