#include "image/pixels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace trestle {

namespace {

ImageGrid grid_within(int64_t height, int64_t width, double edge,
                      const ImageProcessorConfig& config) {
  const auto h = static_cast<double>(height), w = static_cast<double>(width);
  const double ratio = std::max(h / edge, w / edge);
  if (ratio > 1) {
    height = std::max<int64_t>(1, static_cast<int64_t>(std::floor(h / ratio)));
    width = std::max<int64_t>(1, static_cast<int64_t>(std::floor(w / ratio)));
  }
  const int64_t side = config.patch_size * config.spatial_merge_size;
  ImageGrid grid;
  grid.rows = (height - 1) / side + 1;
  grid.cols = (width - 1) / side + 1;
  grid.height = grid.rows * side;
  grid.width = grid.cols * side;
  grid.tokens = grid.rows * (grid.cols + 1);
  return grid;
}

}  // namespace

ImageGrid image_grid(int64_t height, int64_t width, const ImageProcessorConfig& config) {
  if (height <= 0 || width <= 0) {
    user_error("an image of {} x {} pixels has nothing to show; both sides must be positive", width,
               height);
  }
  ImageGrid grid = grid_within(height, width, static_cast<double>(config.longest_edge), config);
  if (config.max_tokens <= 0) return grid;
  auto edge = static_cast<double>(std::max(grid.height, grid.width));
  while (grid.tokens > config.max_tokens && edge > 1) {
    const double share =
        std::sqrt(static_cast<double>(config.max_tokens) / static_cast<double>(grid.tokens));
    edge = std::max(1.0, std::floor(std::min(edge * share, edge - 1)));
    grid = grid_within(height, width, edge, config);
  }
  return grid;
}

at::Tensor image_pixels(const at::Tensor& rgb_CHW, const ImageProcessorConfig& config) {
  TORCH_CHECK(rgb_CHW.dim() == 3 && rgb_CHW.size(0) == 3 && rgb_CHW.scalar_type() == at::kByte,
              "image_pixels wants uint8 [3, H, W], got ", rgb_CHW.scalar_type(), " ",
              rgb_CHW.sizes());
  const ImageGrid grid = image_grid(rgb_CHW.size(1), rgb_CHW.size(2), config);
  at::Tensor resized_CHW = rgb_CHW.contiguous();
  if (rgb_CHW.size(1) != grid.height || rgb_CHW.size(2) != grid.width) {
    // On bytes, not floats: the byte kernel clips between its two passes and the reference has
    // that.
    resized_CHW = at::_upsample_bicubic2d_aa(resized_CHW.unsqueeze(0), {grid.height, grid.width},
                                             /*align_corners=*/false)
                      .squeeze(0);
  }
  // Mean and deviation are brought to the scale of bytes in float32, as the reference does;
  // dividing the pixels by 255 instead gives other last bits.
  const double scale = 1.0 / config.rescale_factor;
  const auto scaled_C11 = [&](const std::array<double, 3>& values) {
    return at::tensor(at::ArrayRef<double>(values), at::kFloat).mul(scale).view({3, 1, 1});
  };
  // The resize of a one-pixel image comes back with its channels last.
  return resized_CHW.contiguous()
      .to(at::kFloat)
      .sub_(scaled_C11(config.mean))
      .div_(scaled_C11(config.std));
}

}  // namespace trestle
