// A checkpoint as the two files llama.cpp runs it from: the language model, and the vision tower
// with its projector ("mmproj"). Called by `trestle export --gguf-path`.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "bridge/convert.h"
#include "formats/ggml.h"
#include "formats/gguf_writer.h"
#include "formats/tensor_source.h"
#include "model/config.h"

namespace trestle {

/// What the files beside the weights say (data/gguf_assets.h reads them).
struct GgufAssets {
  /// The keys `tokenizer.*`; none where the checkpoint has no tokenizer, and the file then takes
  /// and gives token ids only.
  GgufMetadata tokenizer;
  /// The id of [IMG_BREAK]: mmproj holds its embedding, which llama.cpp puts after each row.
  std::optional<int64_t> image_break_id;
  std::array<double, 3> image_mean{}, image_std{};
};

struct GgufFiles {
  std::filesystem::path language;
  /// Nothing for a text-only model.
  std::optional<std::filesystem::path> mmproj;
  /// `general.uuid` of both: a hash of all weights as the source has them, so that files of one
  /// checkpoint go together whatever their types.
  std::string uuid;
  Conversion done;
};

struct GgufOptions {
  /// kF16, kBF16 or kQ8_0: the type of the matrices. What llama.cpp's converter keeps in float32
  /// stays float32 (norms, biases, the row-break embedding, and, unless F16 is asked for, the
  /// patch convolution and merger); rows that are no whole Q8_0 blocks become F16.
  GgmlType type = GgmlType::kBF16;
  /// `general.name`, and the files' names: NAME-BF16.gguf, mmproj-NAME-BF16.gguf.
  std::string name;
  /// Sees the finished files at their temporary places; what it throws leaves none.
  std::function<void(const GgufFiles&)> verify = {};
};

/// Writes both files into `directory`; they appear when both are whole. Of `convert`, memory and
/// reports are heeded. Throws UserError, before anything is written, where a file of one of their
/// names is there, and for what llama.cpp cannot run as the config says it (see docs/gguf.md).
GgufFiles export_gguf(const TensorSource& megatron, const ModelConfig& config,
                      const GgufAssets& assets, const std::filesystem::path& directory,
                      const GgufOptions& options, const ConvertOptions& convert = {});

}  // namespace trestle
