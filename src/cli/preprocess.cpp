// `trestle preprocess`: one picture to the tensor that the vision tower sees, for parity checks.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "base/json.h"
#include "base/paths.h"
#include "cli/commands.h"
#include "cli/tensor_output.h"
#include "flags/number_flag.h"
#include "formats/safetensors.h"
#include "image/fetch.h"
#include "image/pixels.h"

namespace trestle {

namespace {

constexpr TensorOutput kOutput{"preprocess"};

struct PreprocessFlags {
  std::string image;
  std::string output;
  ImageProcessorConfig config;
  bool no_exif = false;
};

void preprocess(const PreprocessFlags& flags) {
  require_output_file(flags.output, "--output", kOutput.kind(), {flags.image});
  const at::Tensor rgb_CHW = load_image(flags.image, {.apply_exif = !flags.no_exif});
  const ImageGrid grid = image_grid(rgb_CHW.size(1), rgb_CHW.size(2), flags.config);
  const at::Tensor pixels_CHW = image_pixels(rgb_CHW, flags.config);
  SafetensorsWriter writer(flags.output, {{"pixel_values", info_of(pixels_CHW)}},
                           kOutput.metadata());
  writer.write("pixel_values", pixels_CHW);
  writer.commit();
  const Json report = {{"height", grid.height},
                       {"width", grid.width},
                       {"rows", grid.rows},
                       {"cols", grid.cols},
                       {"tokens", grid.tokens}};
  fmt::print("{}\n", report.dump());
}

}  // namespace

void add_preprocess(Command app) {
  Command command = app.add_command("preprocess", "turn a picture into pixel_values");
  auto flags = std::make_shared<PreprocessFlags>();
  command.add("--image-path,--image_path", flags->image, "path, http(s) URL or data: URI")
      .required();
  command.add("--output", flags->output, "safetensors file to write: pixel_values [3, H, W]")
      .required();
  add_number(command, "--longest-edge,--longest_edge", flags->config.longest_edge,
             between(1, 1 << 16), "pixels of the longest side after the resize");
  command.add_switch("--no-exif,--no_exif", flags->no_exif, "ignore the EXIF orientation");
  command.on_run([flags] { preprocess(*flags); });
}

}  // namespace trestle
