// A model directory in Mistral's own form (consolidated.safetensors, params.json, tekken.json) seen
// as Hugging Face's: canonical names, its order of rows, a config.json. Opened by format.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include "checkpoint/hf_checkpoint.h"

namespace trestle {

class MistralCheckpoint : public HfCheckpoint {
 public:
  /// Opens params.json and consolidated.safetensors, or consolidated.safetensors.index.json and its
  /// shards. Throws UserError for whatever config_of_params or HfCheckpoint refuse.
  explicit MistralCheckpoint(const std::filesystem::path& directory);

  /// As HfCheckpoint's, q and k with their rows in Hugging Face's order. FP8 weights are scaled
  /// before rows move, so a scale of a row stays with its row.
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  std::optional<Fp8Scales> fp8_scales(const std::string& name) const override;
  void read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const override;
};

}  // namespace trestle
