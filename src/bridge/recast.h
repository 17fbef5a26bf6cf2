// Weights in another dtype than their source's, on their way out. Called by write_hf, and by the
// verification of what it wrote.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "formats/tensor_source.h"

namespace trestle {

/// kFp8: the projections of the language tower as e4m3 with one scale each, as Mistral's official
/// Instruct files have them; all else in bfloat16.
enum class WeightDtype { kFloat32, kBFloat16, kFloat16, kFp8 };

/// What of a model is e4m3 under kFp8, by canonical name.
bool is_fp8_weight(const std::string& name);
/// The modules of a config's `quantization_config` that are not, as transformers matches them.
std::vector<std::string> modules_without_fp8();

/// Tensors of canonical names as a file of that dtype holds them: values rounded once to nearest;
/// under kFp8 NAME_scale_inv [] beside each e4m3 NAME, transformers' `Fp8Quantize` with one block
/// bit for bit: s = 448 / max|w| in fp32, w s rounded, 1 / s stored. It costs a second reading of
/// the weight. One tensor at a time, from one thread. Throws UserError where a value lies beyond
/// the dtype's range, or is not finite in e4m3.
class Recast : public TensorSource {
 public:
  Recast(const TensorSource& source, WeightDtype dtype);
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// The tensors made of those of `names`, in that order.
  TensorList list(const std::vector<std::string>& names) const;

 private:
  // s; 1 for a weight of zeros.
  float scale_of(const std::string& weight) const;

  const TensorSource& source_;
  std::map<std::string, TensorInfo> tensors_;
  mutable std::map<std::string, float> scales_;
};

/// What HfCheckpoint gives of a file of them: e4m3 and its scale as bfloat16.
class ReadBack : public TensorSource {
 public:
  explicit ReadBack(const Recast& written);
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;

 private:
  const Recast& written_;
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace trestle
