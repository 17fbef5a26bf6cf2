// The low-rank adapter that may live inside a projection: LoRA, and DoRA where it has magnitudes.
// Held by Linear; made and filled by peft/.
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "linear/adapter_spec.h"
#include "linear/fused.h"
#include "linear/projection.h"
#include "parallel/group.h"

namespace trestle {

/// Rows of a weight that are in fp32 at a time: a large weight has no whole copy.
constexpr int64_t kAdapterRows = 256;

/// One low-rank pair: x -> (alpha / rank) B A x. `linear_in.weight` A is [rank, in],
/// `linear_out.weight` B is [out, rank], DoRA's `weight_magnitude` m is [out].
class LowRank : public torch::nn::Module {
 public:
  LowRank(int64_t in, int64_t out, const AdapterSpec::Pair& pair, bool dora,
          const at::TensorOptions& options);
  int64_t rank() const { return a.size(0); }
  double alpha() const { return alpha_; }
  double scale() const { return alpha_ / static_cast<double>(rank()); }

  at::Tensor a, b;
  /// Undefined in LoRA.
  at::Tensor magnitude;

 private:
  double alpha_;
};

/// LoRA (Hu et al. 2021): y = W x + s B A x. DoRA (Liu et al. 2024, equation 5):
/// y = m / ||W + s B A|| (W + s B A) x, the norms of the output's rows and constants to the
/// gradient (section 4.3). In Megatron's form one pair adapts the fused projection
/// (linear_in.weight, ...); in PEFT's form each adapted part has a pair of its own
/// (q_proj.linear_in.weight, ...).
class Adapter : public torch::nn::Module {
 public:
  Adapter(int64_t in, int64_t out, const FusedLayout& layout, const AdapterSpec& spec,
          const at::TensorOptions& options);

  /// What DoRA's adapter and scaled weight see of x: in training with dropout.
  at::Tensor dropped(const at::Tensor& x) const;
  /// What is added to W x: s B A x in the fused row order, in training with dropout.
  LowRankUpdate update() const;
  /// What follows takes W, or those of its rows that begin at row `first`.
  ///
  /// DoRA's m / norm, [rows] in fp32; `row_norms` as row_norms() gives them. 1 where a part is not
  /// adapted.
  at::Tensor gain(const at::Tensor& row_norms, int64_t first = 0) const;
  /// ||W + s B A|| row by row, [rows] in fp32, without forming B A; `squares` are square_rows(W).
  /// A row of zeros counts as 1, so that it stays zeros. Of whole rows, where the ranks of
  /// `columns` hold columns of W and A.
  at::Tensor row_norms(const at::Tensor& weight, const at::Tensor& squares, int64_t first = 0,
                       const Group& columns = {}) const;
  /// The weight with the adapter in it, computed in fp32 and rounded to the weight's dtype once.
  at::Tensor merged(const at::Tensor& weight, int64_t first = 0) const;
  /// Whether the projection computes what it would without the adapter, to the rounding of m.
  bool changes_nothing(const at::Tensor& weight, int64_t first = 0) const;
  /// Sets m to given norms [out]: DoRA's start, where it changes nothing.
  void set_magnitude(const at::Tensor& norms);

  bool is_dora() const { return dora_; }
  double dropout() const { return dropout_; }
  /// The pair that adapts the whole fused projection, or null in PEFT's form.
  const std::shared_ptr<LowRank>& whole() const { return whole_; }
  /// In the order of layout.parts(); null where a part is not adapted. Empty in Megatron's form.
  const std::vector<std::shared_ptr<LowRank>>& pairs() const { return pairs_; }
  /// A and B of every pair: what row_norms depends on besides the weight.
  std::vector<at::Tensor> low_rank_weights() const;

 private:
  struct Factors {
    at::Tensor a, b;
  };
  Factors factors() const;

  FusedLayout layout_;
  int64_t out_;
  double dropout_;
  bool dora_;
  std::shared_ptr<LowRank> whole_;
  std::vector<std::shared_ptr<LowRank>> pairs_;
};

/// Sum of squares of each row: [out, in] -> [out] in fp64.
at::Tensor square_rows(const at::Tensor& weight);

}  // namespace trestle
