// A base model seen with an adapter in its weights, one projection in memory at a time, and what an
// adapter becomes on its way out: a merged Hugging Face model or a PEFT folder. Called by export.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "bridge/convert.h"
#include "checkpoint/tensor_source.h"
#include "peft/lora.h"

namespace trestle {

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
  // The projection read last: its rows are asked for one range after the other.
  mutable std::string last_name_;
  mutable at::Tensor last_;
};

/// What `trestle export` is told; empty where it was not.
struct AdapterExport {
  /// A run of adapters, or the base model in Megatron's form.
  std::filesystem::path megatron;
  /// A PEFT folder or a run of adapters.
  std::filesystem::path adapter;
  /// The base model, or only the config, tokenizer and processor files of a base in Megatron's
  /// form.
  std::filesystem::path hf_model;
  /// How a PEFT folder names its base: what the user called hf_model.
  std::string base_name;
  /// A PEFT folder at `output` instead of a merged model; it must not exist or be empty.
  bool adapter_only = false;
  std::filesystem::path output;
};

/// Whether the request speaks of an adapter: one is named, or the Megatron checkpoint holds nothing
/// else.
bool has_adapter(const AdapterExport& request);

struct AdapterExported {
  Conversion written;
  AdapterSummary summary;
  /// The adapter that was read.
  std::filesystem::path adapter;
};

/// Writes a model somewhere: weights under Megatron's names; config and files as `model` has them.
using ModelWriter =
    std::function<Conversion(const TensorSource& weights, const OpenCheckpoint& model)>;

/// Writes the PEFT folder, or has `write` take the merged model. The base of a run's adapters is
/// hf_model or, without it, the checkpoint.pretrained_checkpoint of its run_config.yaml, looked for
/// where the path leads, then beside the run, then on the Hub; a PEFT folder can be written without
/// its weights. Throws UserError when
/// there is no adapter or no base, and as load_adapter does.
AdapterExported export_adapter(const AdapterExport& request, const ModelWriter& write);

}  // namespace trestle
