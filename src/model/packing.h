// Several sequences, one after another without padding, as one list of T tokens: what every layer
// but attention sees. Made by data/batch and generate; read by attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace trestle {

class Packing {
 public:
  Packing() = default;
  explicit Packing(std::vector<int64_t> lengths);

  const std::vector<int64_t>& lengths() const { return lengths_; }
  int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t tokens() const { return tokens_; }
  int64_t longest() const { return longest_; }
  bool uniform() const { return longest_ * sequences() == tokens_; }

  /// [T, ...] -> [B, longest, ...], padded on the right (with arbitrary rows).
  at::Tensor pad(const at::Tensor& packed) const;
  /// The reverse: [B, longest, ...] -> [T, ...].
  at::Tensor unpad(const at::Tensor& padded) const;
  /// Where each sequence begins, and T: int32 [B + 1], where to() put them.
  const at::Tensor& offsets() const { return offsets_; }
  /// Whose offsets() are on `device`, and whose pad() and unpad() there need nothing of the host's;
  /// the copies are waited for by nobody.
  Packing to(at::Device device) const;
  /// 0 .. length-1 of each sequence, int64 [T].
  at::Tensor positions() const;
  /// The same sequences in runs of neighbours of like length, so that pad() of a run is for the
  /// most part true rows; empty where all of them are one such run.
  const std::vector<Packing>& runs() const { return runs_; }

 private:
  std::vector<int64_t> lengths_;
  int64_t tokens_ = 0;
  int64_t longest_ = 0;
  // Where padded rows come from and packed rows go; empty when uniform.
  at::Tensor gather_, scatter_;
  at::Tensor offsets_;
  std::vector<Packing> runs_;
};

}  // namespace trestle
