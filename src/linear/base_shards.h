// The frozen matrices of a stack of layers, shared out over ranks that have the same ones (as ZeRO
// stage 3 shares weights out, Rajbhandari et al. 2020): each keeps 1/N of a layer's bytes and
// gathers a layer when it is needed, the next one meanwhile. Held by the decoder, read by Linear,
// driven by the trainer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "parallel/group.h"

namespace trestle {

/// All ranks of the group ask for the same layers in the same order. Where what they compute
/// differs, begin() and end() hold them to one order. Not for several threads at once.
class BaseShards {
 public:
  explicit BaseShards(Group group) : group_(std::move(group)) {}

  /// Keeps this rank's part of the bytes of `tensors`, which every rank gives alike; some may be
  /// undefined.
  void take(int64_t layer, const std::vector<at::Tensor>& tensors);
  /// What take() was given, gathered; stays until another layer is asked for.
  const std::vector<at::Tensor>& tensors(int64_t layer);
  /// Of the layer, uint8: stays the same.
  const at::Tensor& part(int64_t layer) const { return layers_.at(layer).part; }

  /// A pass of which every rank gathers all of `visits`, in their order, whatever it needs of them:
  /// what it asks for until end() comes in that order.
  void begin(std::vector<int64_t> visits);
  void end();

  const Group& group() const { return group_; }
  /// Of this rank's parts, and of the largest layer.
  int64_t bytes() const;
  int64_t largest_layer() const;

 private:
  struct Place {
    at::ScalarType dtype;  // Undefined of a tensor that is none
    std::vector<int64_t> sizes;
    int64_t first, bytes;  // in the layer
  };
  struct Layer {
    at::Tensor part;
    std::vector<Place> places;
    int64_t bytes = 0;  // of all parts
  };
  struct Gathered {
    int64_t layer = -1;
    at::Tensor bytes;
    Pending pending;
  };

  void advance();
  void visit(int64_t layer);
  void fetch(int64_t layer);

  Group group_;
  std::map<int64_t, Layer> layers_;
  int64_t here_ = -1;
  std::vector<at::Tensor> tensors_;  // of layer here_
  Gathered next_;                    // on its way
  std::vector<int64_t> visits_;
  size_t done_ = 0;  // of visits_
};

}  // namespace trestle
