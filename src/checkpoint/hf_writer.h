// The writer of a Hugging Face model directory, or of its sibling in Mistral's form. Called by the
// bridge's exports.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/hf_layout.h"
#include "formats/safetensors.h"
#include "formats/tensor_source.h"

namespace trestle {

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
