// A Megatron checkpoint (torch_dist) under the names of our model's parameters, one a layer. Called
// by the bridge, the model loader, the trainer's resume and `trestle inspect`. MegatronWriter makes
// such checkpoints.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/json.h"
#include "formats/tensor_source.h"
#include "megatron/shard.h"
#include "pytorch/torch_dist.h"

namespace trestle {

/// A run's two trackers. The text is written first, and readers prefer the other.
constexpr const char* kTracker = "latest_checkpointed_iteration.txt";
constexpr const char* kTrackerState = "latest_train_state.pt";
/// Where an iteration keeps its export for transformers or peft, as Megatron Bridge does.
constexpr const char* kHuggingFaceFolder = "hf";

/// Whether an iteration's directory has an entry of this name.
bool is_of_iteration(const std::filesystem::path& name);

/// The directory of the iteration that `path`, a run or an iteration's directory itself, names.
/// Throws UserError where there is no complete checkpoint, it is of another format, or a run's two
/// trackers name two and no kill has left them so.
std::filesystem::path megatron_directory(const std::filesystem::path& path);

/// A line that says what the text tracker of `path`, a run, says and what is taken instead; empty
/// where it is followed or agrees, and for an iteration's directory. Throws as megatron_directory.
std::string tracker_note(const std::filesystem::path& path);

class MegatronCheckpoint : public TensorSource {
 public:
  /// `path` is a run (its tracker file names the iteration) or an iteration's directory itself.
  /// Throws UserError when there is no complete checkpoint or it is of another format.
  explicit MegatronCheckpoint(const std::filesystem::path& path);

  /// The model's tensors (adapters included) by the names of named_parameters(): stacked keys are
  /// taken apart, gate and up halves stored under `_w` and `_v` joined.
  const std::map<std::string, TensorInfo>& tensors() const override { return model_; }
  /// Everything else in the same spelling: `optimizer.state.exp_avg.` + model name, own entries of
  /// a run.
  const std::map<std::string, TensorInfo>& state() const { return state_; }
  /// Any name of tensors() or state().
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;

  /// The elements of a part of a tensor, whichever way it was cut when it was written: a tensor of
  /// one axis, of the stored type. Rows of a padded vocabulary may be more than the shard's tensor
  /// has. Throws UserError where the stored tensor has another shape.
  at::Tensor read(const Shard& shard) const;
  /// The stored tensor's shape, without such rows: what shard.whole.shape must be.
  std::vector<int64_t> shape_for(const Shard& shard) const;

  int64_t iteration() const { return iteration_; }
  const std::filesystem::path& directory() const { return reader_.directory(); }
  /// Tensors are adapters only; the base lies at base_checkpoint().
  bool is_adapter() const { return is_adapter_; }
  std::optional<std::filesystem::path> tokenizer_directory() const;

  /// run_config.yaml, an empty object when there is none.
  const Json& run_config() const { return run_config_; }
  /// model.hf_config of it as a config.json.
  std::optional<Json> hf_config() const;
  /// checkpoint.pretrained_checkpoint of it, as written there.
  std::optional<std::string> base_checkpoint() const;

  /// common.pt or common_state: iteration, content_metadata, opt_param_scheduler, optimizer, ...
  const Json& common_state() const { return common_state_; }
  /// train_state.pt: step, consumed_train_samples, ... as numbers; an empty object when there is
  /// none.
  Json train_state() const;
  /// A plain object that MegatronWriter::add_object stored.
  std::optional<Json> object(const std::string& key) const;

  /// The tensors under their keys on disk, chunks and all.
  const TorchDistReader& reader() const { return reader_; }

 private:
  // Where a name's data lies: a whole key, a layer of a stacked key, or two of either, gate above
  // up.
  struct Stored {
    std::string key;
    std::optional<int64_t> layer;
    std::string second_key;
  };
  const Stored& stored(const std::string& name) const;
  const TensorInfo& info_of(const std::string& name) const;
  at::Tensor read_box(const std::string& name, const TensorBox& box) const;
  void add(const std::string& name, TensorInfo info, Stored place);
  void join_halves(std::map<std::string, TensorInfo>& tensors);
  void read_common_state();

  TorchDistReader reader_;
  std::map<std::string, TensorInfo> model_, state_;
  std::map<std::string, Stored> places_;
  Json run_config_ = Json::object();
  Json common_state_;
  int64_t iteration_ = 0;
  bool is_adapter_ = false;
};

/// Whether a directory looks like a Megatron run or iteration (it may still be broken).
bool is_megatron_checkpoint(const std::filesystem::path& path);
/// Throws UserError, naming `flag`, where it does not.
void require_megatron(const std::filesystem::path& path, std::string_view flag);

}  // namespace trestle
