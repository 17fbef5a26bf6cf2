// A checkpoint of any known kind becomes a model in memory. Called by generate, finetune, evaluate
// and logits.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "base/json.h"
#include "bridge/views.h"
#include "checkpoint/format.h"
#include "formats/tensor_source.h"
#include "model/config.h"

namespace torch::nn {
class Module;
}

namespace trestle {

class Ministral3;
struct Build;

/// A model on disk, Hugging Face's, Mistral's or Megatron's, or in panels where `format` says so,
/// its tensors under Megatron's names.
class OpenCheckpoint {
 public:
  /// A Megatron directory that holds no config of its own takes `config_directory`'s (an HF or
  /// Mistral directory). `format` chooses where `path` holds several forms (choose_format). Throws
  /// UserError when the path is of no form or holds adapters only, where tensors are missing, left
  /// over or of other shapes than the config says, and where a Megatron directory's own config says
  /// something else than `config_directory`'s of what shapes or arithmetic depend on.
  explicit OpenCheckpoint(const std::filesystem::path& path,
                          const std::optional<std::filesystem::path>& config_directory = {},
                          std::optional<CheckpointFormat> format = {});

  const TensorSource& weights() const { return *weights_; }
  const ModelConfig& config() const { return config_; }
  /// config.json's content, for checkpoints made from this one.
  const Json& config_json() const { return config_json_; }
  /// Where tokenizer and processor files lie.
  const std::filesystem::path& assets() const { return assets_; }
  std::vector<std::filesystem::path> side_files() const;
  bool is_megatron() const { return is_megatron_; }
  /// Of weights in panels, the language model's form; nothing of others.
  std::optional<PanelForm> packed() const { return packed_; }
  /// The dtype of most of the weights that are not in panels.
  at::ScalarType dtype() const;

 private:
  std::unique_ptr<TensorSource> source_;
  std::unique_ptr<TensorSource> view_;
  const TensorSource* weights_ = nullptr;
  ModelConfig config_;
  Json config_json_;
  std::filesystem::path assets_;
  bool is_megatron_ = false;
  std::optional<PanelForm> packed_;
};

/// Whether a checkpoint in Megatron's form shares its embedding with its head: it has no output
/// layer of its own, and `config_json` does not deny it. (One that it has says more than a flag
/// that transformers writes by default.)
bool is_tied(const TensorSource& megatron, const Json& config_json);

/// Fills every parameter from the tensor of its name, cast to the parameter's dtype, and then
/// quantised, or else left in FP8, where the module holds it so; `prefix` comes before the module's
/// own names; those that begin with `without`, if it says anything, stay as they are. Throws
/// UserError when one is missing or has another shape; a padded vocabulary is cut.
void load_weights(const torch::nn::Module& module, const TensorSource& megatron,
                  std::string_view prefix = {}, std::string_view without = {});

/// A model in memory as a source, its floating-point tensors cast to `dtype`: what writers take.
/// Adapters are not part of it; merge them first.
class ModelTensors : public TensorSource {
 public:
  ModelTensors(const Ministral3& model, at::ScalarType dtype);
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;

 private:
  std::map<std::string, at::Tensor> parameters_;
  std::map<std::string, TensorInfo> tensors_;
  at::ScalarType dtype_;
};

/// Opens, builds and fills.
std::shared_ptr<Ministral3> load_model(const OpenCheckpoint& checkpoint, const Build& build);

}  // namespace trestle
