// A model as its user names it, perhaps with an adapter: the base seen with the adapter in its
// weights, some rows in memory at a time; and an adapter on its way out as a PEFT folder. Called by
// export and compare.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "bridge/convert.h"
#include "formats/tensor_source.h"
#include "peft/lora.h"

namespace trestle {

class Adapter;

/// Every tensor of `base`, projections with their adapter added as Adapter::merged does.
class MergedTensors : public TensorSource {
 public:
  /// `adapters` is a model of the base's config, on the meta device for all that matters here.
  MergedTensors(const TensorSource& base, const Ministral3& adapters);
  const std::map<std::string, TensorInfo>& tensors() const override { return base_.tensors(); }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// Whether an adapter has made a difference in what was read so far, after rounding.
  bool changed() const { return changed_; }

 private:
  const TensorSource& base_;
  std::map<std::string, std::shared_ptr<Adapter>> adapters_;
  mutable bool changed_ = false;
};

/// How a model is named; empty where it was not.
struct ModelNames {
  /// A run of adapters, or a model in Megatron's form.
  std::filesystem::path megatron = {};
  /// A PEFT folder or a run of adapters.
  std::filesystem::path adapter = {};
  /// A model in another form, of adapters their base; or only the config, tokenizer and processor
  /// files of what is in Megatron's form.
  std::filesystem::path hf_model = {};
  /// Which form of a directory is read where it has several.
  std::optional<CheckpointFormat> format = {};
};

/// Whether they speak of an adapter: one is named, or the Megatron checkpoint holds nothing else.
bool has_adapter(const ModelNames& names);

/// The named model, its adapter merged. The base of a run's adapters is hf_model or, without it,
/// the checkpoint.pretrained_checkpoint of its run_config.yaml, looked for where the path leads,
/// then beside the run, then on the Hub.
class OpenModel {
 public:
  /// Throws UserError when there is no model, or an adapter without a base, and as OpenCheckpoint
  /// and load_adapter do.
  explicit OpenModel(const ModelNames& names);

  /// Under Megatron's names.
  const TensorSource& weights() const;
  /// Config, dtype, tokenizer and processor files; of an adapter its base's.
  const OpenCheckpoint& checkpoint() const { return *checkpoint_; }
  const ModelConfig& config() const { return checkpoint_->config(); }
  /// The adapter that was merged, if one was.
  const std::optional<std::filesystem::path>& adapter() const { return adapter_; }
  /// Whether there is an adapter that made no difference; known when all weights have been read.
  bool adapter_changes_nothing() const { return merged_ && !merged_->changed(); }

 private:
  std::unique_ptr<OpenCheckpoint> checkpoint_;
  std::shared_ptr<Ministral3> adapters_;
  std::unique_ptr<MergedTensors> merged_;
  std::optional<std::filesystem::path> adapter_;
};

/// The base_model_name_or_path that finds `given` from wherever the folder is read: a name on the
/// Hub as it is, a path from the root.
std::string base_name_from_anywhere(const std::string& given);

/// Writes the named adapter as a PEFT folder at `output`, which must not exist or be empty, with
/// `base_name` as its base_model_name_or_path. The base's weights are not needed, of its config
/// the sizes only. With `verify` the folder is read back and compared before it gets its name.
/// Throws as OpenModel.
struct AdapterWritten {
  Conversion written;
  AdapterSummary summary;
  /// The adapter that was read.
  std::filesystem::path adapter;
};
AdapterWritten export_peft_folder(const ModelNames& names, const std::string& base_name,
                                  const std::filesystem::path& output, bool verify);

}  // namespace trestle
