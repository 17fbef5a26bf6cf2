// A Hugging Face model directory as one set of tensors under one spelling of names, and its writer.
// Called by the bridge (import, export), the model loader and `trestle inspect`; format.h opens it
// or its sibling for Mistral's own files, mistral_checkpoint.h.
//
// The canonical names are those of the text-only files with the towers beside them:
//   model.embed_tokens.weight, model.layers.N.*, model.norm.weight, lm_head.weight   language
//   vision_tower.*                                                                   vision
//   multi_modal_projector.*                                                          projector
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/hf_config.h"
#include "formats/safetensors.h"
#include "formats/tensor_source.h"
#include "model/config.h"

namespace trestle {

/// How a file spells the canonical names.
enum class HfSpelling {
  /// language_model.model.*, language_model.lm_head.weight, vision_tower.*: the official files.
  kLanguageModelFirst,
  /// model.language_model.*, lm_head.weight, model.vision_tower.*: the modules of transformers 5.
  kModelFirst,
  /// model.*, lm_head.weight: Ministral3ForCausalLM.
  kTextOnly,
  /// layers.*, vision_encoder.*, output.weight: Mistral's own files, consolidated.safetensors
  /// beside
  /// params.json. Their q and k have another order of rows, which is MistralRows' to make.
  kMistral,
};

/// Hugging Face's spellings -> canonical. Names of none of them pass unchanged, for the bridge to
/// refuse.
std::string canonical_name(std::string_view name);
std::string spelled_name(const std::string& canonical, HfSpelling spelling);

/// Where a canonical tensor lies and how it is stored there.
struct HfStored {
  const SafetensorsFile* file;
  std::string name;
  TensorInfo info;
  /// Of an FP8 weight: its `weight_scale_inv`, perhaps in another shard.
  const SafetensorsFile* scale_file = nullptr;
  std::string scale_name{};
};

/// Whether a file of this name belongs beside a model's weights: tokenizer, processor, chat
/// template and generation files.
bool is_side_file(std::string_view name);
/// Those that exist in `directory`, and params.json where no config.json says what it says. Throws
/// UserError where a name is taken by anything but a file: a link that leads nowhere, a directory.
std::vector<std::filesystem::path> side_files(const std::filesystem::path& directory);

/// weight_map of an index: tensor -> file name, a plain one. Throws UserError naming the index.
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& index);

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
  void settle_tie();

  std::filesystem::path directory_;
  Json config_json_;
  ModelConfig config_;
  std::optional<Fp8Block> fp8_block_;
  HfSpelling spelling_ = HfSpelling::kTextOnly;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, HfStored> stored_;
};

/// Writes a model directory; nothing is visible under its name before commit(). Throws UserError
/// when the directory exists and is not empty or tekken.json is missing for kMistral, MachineError
/// when the disk refuses.
class HfWriter {
 public:
  struct Options {
    HfSpelling spelling = HfSpelling::kLanguageModelFirst;
    /// A shard is closed before it would pass this; transformers' default is 5 GB too.
    uint64_t max_shard_bytes = 5'000'000'000;
    bool replace = false;
  };

  /// `tensors` by canonical name in the order of the files; `config` goes out as given, as
  /// config.json (see export_config) or for kMistral as params.json (see params_of_config); of
  /// `side_files` those are copied that the spelling's readers know.
  HfWriter(const std::filesystem::path& directory, const TensorList& tensors, const Json& config,
           const std::vector<std::filesystem::path>& side_files, Options options);

  /// Each tensor once; in the order of the list only one shard is open at a time.
  void write(const std::string& canonical, const at::Tensor& tensor);
  /// The next rows of a tensor.
  void write_rows(const std::string& canonical, std::span<const std::byte> rows);
  /// Everything is written, at the returned place; under its name only after commit().
  std::filesystem::path finish();
  /// finish(), and the rename.
  void commit();

 private:
  struct Shard {
    TensorList tensors;  // as spelled in the file
    size_t unwritten = 0;
    std::filesystem::path path;
    std::unique_ptr<SafetensorsWriter> writer;
  };
  void plan_shards(const TensorList& tensors);
  Shard& open_shard(const std::string& spelled);
  static void close_if_full(Shard& shard);
  void write_index() const;

  Options options_;
  OutputDirectory output_;
  std::vector<Shard> shards_;
  std::map<std::string, size_t> shard_of_;  // by spelled name
  uint64_t total_bytes_ = 0;
};

}  // namespace trestle
