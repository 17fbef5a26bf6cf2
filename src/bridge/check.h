// Whether a checkpoint on disk is whole and agrees with itself, without building a model: every
// file is parsed, ranges, names, shapes and recorded sums are compared. Called by `trestle inspect
// --check`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/format.h"
#include "formats/tensor_source.h"

namespace trestle {

/// What a check found; without problems it is the right thing to print as "ok".
struct CheckReport {
  std::string kind;
  size_t tensors = 0;
  uint64_t bytes = 0;  // of the tensors, as stored
  /// One line each, naming file and tensor.
  std::vector<std::string> problems = {};
  /// What is whole and of no use to other commands, a line each.
  std::vector<std::string> notes = {};

  /// Runs a part of a check; the UserError of one that fails becomes a problem. Returns whether it
  /// passed.
  bool part(const std::function<void()>& run);
};

/// One safetensors file: its header, and that its tensors tile the data.
CheckReport check_safetensors(const std::filesystem::path& path);
/// One GGUF file: header, keys, names, types, and that its tensors tile the data as ggml demands;
/// of a language model of this family, with the mmproj beside it, also names and shapes against
/// its keys.
CheckReport check_gguf(const std::filesystem::path& path);
/// A Hugging Face or Mistral directory: config, every shard, index and shards against each other,
/// FP8 scales, and names, shapes and dtypes against the config; of types that no weight is read of
/// that is all there is to check, and a note.
CheckReport check_model_directory(const std::filesystem::path& directory, CheckpointFormat format);

/// What `trestle quantize` wrote: shapes and bytes, every scale, and names and shapes against
/// config.json.
CheckReport check_packed(const std::filesystem::path& directory);

/// A Megatron run or iteration: `.metadata`, every chunk (tiling, archive, sums of its records),
/// every pickle, and names and shapes against run_config.yaml where that has the model's config.
/// Reads all data, a few megabytes in memory at a time.
CheckReport check_megatron(const std::filesystem::path& path);

/// Adapters' factors NAME + `in` [r, in] and NAME + `out` [out, r]: each has its partner, and they
/// meet in r. The other sizes only the base model knows. `what` opens the problems.
void check_factors(const std::map<std::string, TensorInfo>& tensors, std::string_view in,
                   std::string_view out, std::string_view what, CheckReport& report);

}  // namespace trestle
