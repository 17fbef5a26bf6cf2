// From RGB pixels to the vision tower's input: the grid of patches, the resize and the
// normalisation of transformers' PixtralImageProcessor. Called by chat (how many [IMG] ids a
// picture takes), by the batches and by `preprocess`.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>

namespace trestle {

struct ImageProcessorConfig {
  /// Pixels: the longest side after the resize.
  int64_t longest_edge = 1540;
  /// Ids of a picture at most, row ends included (ImageGrid::tokens); 0: as longest_edge has it.
  int64_t max_tokens = 0;
  /// Pixels: the side of one patch; spatial_merge_size^2 patches become one [IMG].
  int64_t patch_size = 14;
  int64_t spatial_merge_size = 2;
  double rescale_factor = 0.00392156862745098;
  std::array<double, 3> mean = {0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> std = {0.26862954, 0.26130258, 0.27577711};
};

/// Reads processor_config.json, preprocessor_config.json and, after them in rank, Mistral's
/// params.json of a checkpoint directory; what none states keeps its default. Throws UserError on
/// values out of range and on processing that is not done here (another resampling, no resize).
ImageProcessorConfig read_image_processor_config(const std::filesystem::path& directory);

/// The line to refuse a picture with where the model of the directory (config.json) has another
/// patch_size or spatial_merge_size than `config`, which was read from it: the grid of ids would
/// not be that of the vision tower. Empty where they agree or there is no config.json with vision.
std::string patch_mismatch(const std::filesystem::path& directory,
                           const ImageProcessorConfig& config);

/// The line to refuse a picture with where the directory's config.json (or params.json, where there
/// is none) is that of a text-only model. Empty where it has a vision tower, or says nothing.
std::string text_only_model(const std::filesystem::path& directory);

struct ImageGrid {
  /// Pixels after the resize: rows and cols times patch_size * spatial_merge_size.
  int64_t height = 0;
  int64_t width = 0;
  /// [IMG] ids: rows * cols; a row ends with [IMG_BREAK], the last one with [IMG_END].
  int64_t rows = 0;
  int64_t cols = 0;
  /// All ids of the picture: rows * (cols + 1).
  int64_t tokens = 0;
  bool operator==(const ImageGrid&) const = default;
};

/// Shrinks to longest_edge and max_tokens, never enlarges but to the next whole patch; the
/// arithmetic is transformers', in binary64. A side that would vanish becomes one pixel
/// (transformers fails there). Throws UserError unless both are positive.
ImageGrid image_grid(int64_t height, int64_t width, const ImageProcessorConfig& config);

/// uint8 [3, H, W] on the CPU -> float32 [3, grid.height, grid.width], bit-equal to the processor's
/// output.
at::Tensor image_pixels(const at::Tensor& rgb_CHW, const ImageProcessorConfig& config);

}  // namespace trestle
