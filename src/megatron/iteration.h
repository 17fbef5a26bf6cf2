// The directory of a checkpoint that is being written, and all in it but the tensors: what makes
// their files a Megatron checkpoint. Called by MegatronWriter and by ranks that write together.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "formats/tensor_source.h"
#include "model/config.h"
#include "pytorch/torch_save.h"

namespace trestle {

struct MegatronOutput {
  /// The run's directory; the checkpoint goes to run/iter_%07d.
  std::filesystem::path run;
  int64_t iteration = 0;
  ModelConfig config;
  /// The config.json that belongs to it.
  Json hf_config = Json::object();
  /// Copied into tokenizer/.
  std::vector<std::filesystem::path> tokenizer_files = {};
  /// Merged (RFC 7386) into common.pt: opt_param_scheduler, optimizer, ...
  Json common_state = Json::object();
  /// Merged into train_state.pt: consumed_train_samples, ... Integers, floats and booleans.
  Json train_state = Json::object();
  /// Merged into run_config.yaml: peft, checkpoint.pretrained_checkpoint, ...
  Json run_config = Json::object();
  /// Ranks of the run that could have written it: they shape chunks and files. Readers cut anew.
  int64_t tensor_parallel = 1;
  int64_t pipeline_parallel = 1;
  /// One key a layer instead of keys stacked over layers (`hetereogenous_dist_checkpoint`).
  bool per_layer_keys = false;
  /// Whether an iteration that is there already is replaced (whole, at the end) or is an error.
  bool replace = false;
};

/// What the side files say of the tensors.
struct MegatronContents {
  at::ScalarType dtype = at::kBFloat16;
  bool has_optimizer = false;

  /// Of one more tensor, by its name in the model or the optimizer's state.
  void add(const std::string& name, at::ScalarType type);
};

/// Where a tensor lies in the files: by itself or as one layer of a stacked key.
struct MegatronPlace {
  std::string key;
  TensorInfo whole;  // as stored
  std::optional<int64_t> layer;
};
MegatronPlace megatron_place(const MegatronOutput& output, const std::string& name,
                             const TensorInfo& info);

/// The key of the Transformer Engine state that Megatron Bridge insists on finding beside the
/// weight `name`; empty where it wants none.
std::string extra_state_key(const MegatronOutput& output, const std::string& name);
/// What lies under it: without fp8 a list with one empty tensor.
SavedArchiveWriter empty_extra_state();
/// What MegatronCheckpoint::object(key) gives back, under object_key(key).
SavedArchiveWriter plain_object(const Json& value);
std::string object_key(const std::string& key);

/// The file that says that all of an iteration is there, and what it holds.
constexpr const char* kMarkerFile = "metadata.json";
constexpr std::string_view kMarker =
    R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1})";

class MegatronIteration {
 public:
  /// Throws UserError when the iteration exists, MachineError when the disk refuses.
  explicit MegatronIteration(const MegatronOutput& output);

  /// Where the data files and `.metadata` belong until commit().
  const std::filesystem::path& path() const { return iteration_; }
  /// Everything behind `.metadata` but the mark; `sha256` of files whose digest is known.
  void write_side_files(const MegatronContents& contents,
                        std::map<std::string, std::string> sha256) const;
  /// Writes metadata.json, which says that all is there and without which no reader takes it for a
  /// checkpoint. Returns the place of all of it: a new run or the iteration.
  std::filesystem::path mark() const;
  /// The rename; in a run that is there the trackers follow.
  void commit();

 private:
  void write_common_state(bool has_optimizer) const;
  void write_run_config(const MegatronContents& contents) const;
  void write_train_state() const;
  void copy_tokenizer() const;
  void write_trackers(const std::filesystem::path& run) const;

  MegatronOutput output_;
  bool new_run_;
  OutputDirectory directory_;        // the run if it is new, or the iteration
  std::filesystem::path iteration_;  // where it is written
};

}  // namespace trestle
