// Import and export: a whole checkpoint from one family to the other, one tensor in memory at a
// time. Called by the commands import, export, demo, and by whoever writes a model in memory as an
// HF directory.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>

#include "bridge/load.h"
#include "checkpoint/hf_checkpoint.h"

namespace trestle {

struct Conversion {
  int64_t tensors = 0;
  uint64_t bytes = 0;
};

/// Called after each tensor written, with its name and the counts so far.
using ConversionProgress = std::function<void(const std::string& name, const Conversion& done)>;

/// Hugging Face -> Megatron (torch_dist, iteration 0) at `run`. Throws UserError when the source is
/// no HF directory, or `run` holds an iteration 0 already.
Conversion import_checkpoint(const std::filesystem::path& hf, const std::filesystem::path& run,
                             const ConversionProgress& progress = {});

/// Megatron -> Hugging Face at `output`, which must not exist or be empty. `hf` gives config,
/// tokenizer and processor files; without it the Megatron directory's own copies are taken.
Conversion export_checkpoint(const std::filesystem::path& run,
                             const std::optional<std::filesystem::path>& hf,
                             const std::filesystem::path& output, HfWriter::Options options = {},
                             const ConversionProgress& progress = {});

/// Tensors under Megatron's names as an HF directory.
Conversion write_hf(const TensorSource& megatron, const ModelConfig& config,
                    const Json& config_json, const std::vector<std::filesystem::path>& side_files,
                    const std::filesystem::path& output, HfWriter::Options options = {},
                    const ConversionProgress& progress = {});

}  // namespace trestle
