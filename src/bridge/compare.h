// Two checkpoints of any forms against each other: every tensor, and what they compute. Called by
// `trestle compare` and by --verify.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bridge/gguf.h"
#include "bridge/recast.h"
#include "formats/tensor_source.h"
#include "model/config.h"

namespace trestle {

/// One tensor of either side.
struct TensorDifference {
  std::string name;
  /// Nothing where a side lacks it.
  std::optional<TensorInfo> a, b;
  /// The same dtype, shape and bytes.
  bool equal = false;
  /// Elements of other values; nothing where they are not compared by value: a side lacks the
  /// tensor, shapes differ, or elements share bytes in a way that is not the same or not defined.
  std::optional<int64_t> differing = 0;
  /// The largest |a - b|, infinite where one is no finite number and the other is not the same; and
  /// the largest finite |a|. Infinite where they are not compared by value.
  double max_error = 0, max_value = 0;
  /// The largest |a - b| of finite numbers; and how many elements are NaN on one side alone, or an
  /// infinity against another number.
  double finite_error = 0;
  int64_t nan = 0, infinite = 0;
  /// Elements that are 0 on one side and -0 on the other, which is no difference by value.
  int64_t zeros = 0;
  /// Of the values row by row, in hex; empty where they were not asked for.
  std::string sha256_a, sha256_b;
};

/// "0.5 of 4, NaN against a number at 1": of one that differs by value.
std::string error_text(const TensorDifference& tensor);

/// SHA-256, in hex, of a tensor's values row by row; `info` is what the source says of it.
std::string sha256_of(const TensorSource& source, const std::string& name, const TensorInfo& info);

/// Tensors of both sides, Hugging Face's canonical names in order, read in blocks of rows.
/// `on_tensor` is told of each as it is done.
std::vector<TensorDifference> compare_tensors(
    const TensorSource& a, const TensorSource& b, bool hashes,
    const std::function<void(const TensorDifference&)>& on_tensor = {});

/// What two models think of the same tokens.
struct LogitDifference {
  int64_t positions = 0;
  /// KL(a || b) of the distributions of the next token, in nats: mean and largest over positions.
  double mean_kl = 0, max_kl = 0;
  /// The largest |a - b| and the largest |a|.
  double max_error = 0, max_value = 0;
  /// Positions where both have the same most likely token.
  int64_t same_top = 0;
};

/// Logits [T, V] of both.
LogitDifference compare_logits(const at::Tensor& a_TV, const at::Tensor& b_TV);

/// Whose logits have NaN or infinities, and so are not to be compared; empty where neither's have.
std::string not_finite(const at::Tensor& a_TV, const at::Tensor& b_TV);

/// Why what each computes cannot be compared on one input; empty where it can.
std::string incomparable(const ModelConfig& a, const ModelConfig& b);

struct Verified {
  int64_t tensors = 0;
  LogitDifference logits;
  /// Why there was no forward; empty where there was.
  std::string no_logits = {};
};

/// What both verifications may cost: without room for the forward there is none.
struct VerifyLimits {
  /// Of the forward.
  at::ScalarType dtype = at::kFloat;
  /// What the process may hold, in bytes.
  uint64_t max_memory = UINT64_MAX;
};

/// Reopens the checkpoint at `written` and holds it to the source (Megatron's names), which was
/// rounded to `rounded` on its way: every tensor bit for bit, then a short forward of both; where
/// nothing was rounded the logits are equal too. Throws MachineError, naming tensor and both
/// values, where they differ.
Verified verify_checkpoint(const TensorSource& megatron, const ModelConfig& config,
                           const VerifyLimits& limits, std::optional<WeightDtype> rounded,
                           const std::filesystem::path& written);

/// Reopens what write_packed() wrote and shows by a short forward what its rounding does, of the
/// weights alone. Throws MachineError where a scale or a logit is no finite number.
Verified verify_packed(const TensorSource& megatron, const ModelConfig& config,
                       const VerifyLimits& limits, const std::filesystem::path& written);

/// The same of the two files that export_gguf has made of the source with matrices of `type`: every
/// tensor is, bit for bit, what its type makes of the source's, the keys say what the config says,
/// and a short forward shows what the rounding does.
Verified verify_gguf(const TensorSource& megatron, const ModelConfig& config,
                     const VerifyLimits& limits, GgmlType type, const GgufFiles& written);

}  // namespace trestle
