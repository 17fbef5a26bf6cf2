// Import and export: a whole checkpoint from one family to the other, streamed in blocks of rows.
// Called by the commands import, export, demo, and by whoever writes a model in memory as an HF
// directory.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>

#include "bridge/load.h"
#include "bridge/recast.h"
#include "bridge/stream.h"
#include "checkpoint/hf_writer.h"
#include "cpu/weight_panels.h"

namespace trestle {

struct Conversion {
  int64_t tensors = 0;
  uint64_t bytes = 0;
};

struct ConvertOptions {
  /// What the process may hold, in bytes.
  uint64_t max_memory = 1'500'000'000;
  /// Called once, before tensors are written.
  std::function<void(const StreamPlan&)> on_plan = {};
  /// Called as tensors are completed, with the counts so far.
  std::function<void(const Conversion& done)> on_progress = {};
  /// Ranks whose chunks a Megatron checkpoint is written in.
  int64_t tensor_parallel = 1;
  int64_t pipeline_parallel = 1;
  /// What weights are rounded to on their way out; nothing for what the source has. write_hf only.
  std::optional<WeightDtype> dtype = {};
  /// How an HF directory is laid out, or Mistral's own (HfSpelling::kMistral).
  HfWriter::Options hf = {};
  /// Called with the finished checkpoint's temporary place before it gets its name; what it throws
  /// leaves nothing behind.
  std::function<void(const std::filesystem::path& written)> verify = {};
  /// Which form of the source is read where it has several; nothing for choose_format's precedence.
  std::optional<CheckpointFormat> format = {};
};

/// Hugging Face or Mistral -> Megatron (torch_dist, iteration 0) at `run`. Throws UserError when
/// the source is neither, or `run` is not new or empty, or lies within `hf` or around it.
Conversion import_checkpoint(const std::filesystem::path& hf, const std::filesystem::path& run,
                             const ConvertOptions& options = {});

/// Megatron -> Hugging Face at `output`, which must not exist or be empty. `hf` gives config,
/// tokenizer and processor files; without it the Megatron directory's own copies are taken.
Conversion export_checkpoint(const std::filesystem::path& run,
                             const std::optional<std::filesystem::path>& hf,
                             const std::filesystem::path& output,
                             const ConvertOptions& options = {});

/// Tensors under Megatron's names in panels of `form`, to be decoded on a CPU, as a directory
/// (checkpoint/packed_checkpoint.h) at `output`, which must not exist or be empty. What is in no
/// panels goes out in `dtype`.
Conversion write_packed(const TensorSource& megatron, const ModelConfig& config,
                        const Json& config_json,
                        const std::vector<std::filesystem::path>& side_files, PanelForm form,
                        at::ScalarType dtype, const std::filesystem::path& output,
                        const ConvertOptions& options = {});

/// Tensors under Megatron's names as the directory that `options.hf` describes.
Conversion write_hf(const TensorSource& megatron, const ModelConfig& config,
                    const Json& config_json, const std::vector<std::filesystem::path>& side_files,
                    const std::filesystem::path& output, const ConvertOptions& options = {});

}  // namespace trestle
