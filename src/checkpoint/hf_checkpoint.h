// A Hugging Face model directory as one set of tensors under the canonical names of hf_layout.h.
// Called by the bridge (import, export), the model loader and `trestle inspect`; format.h opens it
// or its sibling for Mistral's own files, mistral_checkpoint.h.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_layout.h"
#include "formats/safetensors.h"
#include "formats/tensor_source.h"
#include "model/config.h"

namespace trestle {

/// Where a canonical tensor lies and how it is stored there.
struct HfStored {
  const SafetensorsFile* file;
  std::string name;
  TensorInfo info;
  /// Of an FP8 weight: its `weight_scale_inv`, perhaps in another shard.
  const SafetensorsFile* scale_file = nullptr;
  std::string scale_name{};
};

/// A checkpoint that may be listed, checked and compared, and is no model.
class NoWeights : public UserError {
 public:
  using UserError::UserError;
};

class HfCheckpoint : public TensorSource {
 public:
  /// Opens config.json and model.safetensors, or model.safetensors.index.json and its shards.
  /// Throws UserError for whatever parse_hf_config or SafetensorsFile refuse, an index that
  /// disagrees with its shards or leaves the directory, an FP8 weight without a fitting scale, and
  /// tensors that contradict tie_word_embeddings.
  explicit HfCheckpoint(const std::filesystem::path& directory);

  /// By canonical name. FP8 weights appear as bf16; scales, and lm_head.weight where it is tied, do
  /// not appear.
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  std::optional<Fp8Scales> fp8_scales(const std::string& name) const override;
  void read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// Tensors of types that no weight is read of: integers, packed ones, FP8 other than e4m3.
  const std::vector<HfStored>& not_weights() const { return not_weights_; }
  /// Throws NoWeights naming the first of them: before the others are used.
  void require_weights() const;
  /// The same tensor as it lies in the file, for `trestle inspect`.
  const HfStored& stored(const std::string& name) const;

  const std::filesystem::path& directory() const { return directory_; }
  /// tie_word_embeddings as the tensors settle it.
  const ModelConfig& config() const { return config_; }
  const Json& config_json() const { return config_json_; }
  HfSpelling spelling() const { return spelling_; }

 protected:
  /// A directory whose files are spelled kMistral; `config_json` is its params.json in the words of
  /// config.json.
  HfCheckpoint(const std::filesystem::path& directory, HfSpelling spelling, Json config_json);

 private:
  void open();
  void open_shards();
  void collect_tensors();
  void settle_scales(std::map<std::string, HfStored> scales);
  void settle_tie();

  std::filesystem::path directory_;
  Json config_json_;
  ModelConfig config_;
  std::optional<Fp8Block> fp8_block_;
  HfSpelling spelling_ = HfSpelling::kTextOnly;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, HfStored> stored_;
  std::vector<HfStored> not_weights_;
};

}  // namespace trestle
