// A checkpoint of one family seen under the other's names, one tensor at a time: the whole of the
// conversion. Import writes an HfAsMegatron, export a MegatronAsHf; load_model reads whichever
// speaks Megatron.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/table.h"
#include "formats/tensor_source.h"

namespace trestle {

/// Which of a mapping's names a source speaks.
enum class Spoken { kHuggingFace, kMegatron };

/// Where tensors and the config's table disagree, one line each: missing, of another shape (a
/// Megatron vocabulary may be padded), parts of one fused tensor that differ in dtype, and what is
/// left over. `tied`: lm_head.weight may be there and need not.
std::vector<std::string> disagreements(const TensorSource& source,
                                       const std::vector<Mapping>& table, Spoken spoken, bool tied);

/// Throws UserError, naming the first tensor, where the whole of a checkpoint in Megatron's names
/// (found at `place`) is not what the config asks for: what is loaded has passed this, whoever
/// loads it and however much of it at a time.
void require_whole(const TensorSource& megatron, const ModelConfig& config, std::string_view place);

/// Hugging Face tensors (canonical names) under Megatron's names, fused. Throws UserError when a
/// tensor is missing, has another shape than the config says, or is left over.
class HfAsMegatron : public TensorSource {
 public:
  HfAsMegatron(const TensorSource& hf, const ModelConfig& config);
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// Of what is made of several matrices: where all of them are in FP8, and their scales belong to
  /// the same columns.
  std::optional<Fp8Scales> fp8_scales(const std::string& name) const override;
  void read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const override;
  const std::vector<Mapping>& table() const { return table_; }

 private:
  const TensorSource& hf_;
  std::vector<Mapping> table_;
  std::map<std::string, const Mapping*> by_name_;
  std::map<std::string, TensorInfo> tensors_;
};

/// The reverse. Embedding and head may have more rows than the config's vocabulary (Megatron pads
/// it); those are cut.
class MegatronAsHf : public TensorSource {
 public:
  MegatronAsHf(const TensorSource& megatron, const ModelConfig& config);
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// Names in the order in which reading touches each Megatron tensor once.
  const std::vector<std::string>& order() const { return order_; }

 private:
  const TensorSource& megatron_;
  std::vector<Mapping> table_;
  std::map<std::string, std::pair<const Mapping*, size_t>> by_name_;
  std::map<std::string, TensorInfo> tensors_;
  std::vector<std::string> order_;
};

/// A tensor with the rows of `shape`; more rows (a padded vocabulary) are cut.
at::Tensor cut_to(const at::Tensor& tensor, const std::vector<int64_t>& shape);

}  // namespace trestle
