// Pictures against Pillow and transformers' PixtralImageProcessor (image/golden, made by
// tools/make_image_goldens.py), and what is refused.
#include <ATen/ATen.h>
#include <c10/util/hash.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "errors.h"
#include "image/image.h"
#include "image/pixels.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_mentions;

const fs::path kImages = "image/golden";

std::string sha1(const at::Tensor& tensor) {
  EXPECT_TRUE(tensor.is_contiguous());
  return c10::sha1(std::string(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()))
      .str();
}

std::string file_text(const std::string& name) { return read_text(kImages / name); }

at::Tensor decode(const std::string& text, const ImageOptions& options = {}) {
  return decode_image(std::as_bytes(std::span(text)), "picture", options);
}

/// The message of the UserError, which must name the picture; nothing when the picture is accepted.
std::optional<std::string> refusal(const std::string& text, const ImageOptions& options = {}) {
  const auto message = testing::refusal_of([&] { decode(text, options); });
  EXPECT_TRUE(!message || message->starts_with("picture: ")) << *message;
  return message;
}

ImageProcessorConfig with_edge(int64_t longest_edge) {
  ImageProcessorConfig config;
  config.longest_edge = longest_edge;
  return config;
}

TEST(Image, EqualsPillowAndTheProcessor) {
  const Json goldens = read_json(kImages / "goldens.json");
  ASSERT_GE(goldens.size(), 60u);
  for (const Json& golden : goldens) {
    const auto name = golden["file"].get<std::string>();
    SCOPED_TRACE(name);
    const at::Tensor rgb_CHW =
        decode(file_text(name), {.apply_exif = golden["apply_exif"].get<bool>()});
    EXPECT_EQ(rgb_CHW.sizes().vec(),
              (std::vector<int64_t>{3, golden["source"][0], golden["source"][1]}));
    EXPECT_EQ(sha1(rgb_CHW), golden["rgb_sha1"].get<std::string>());

    const ImageProcessorConfig config = with_edge(golden["longest_edge"]);
    const ImageGrid grid = image_grid(rgb_CHW.size(1), rgb_CHW.size(2), config);
    const auto expected = golden["grid"].get<std::vector<int64_t>>();
    EXPECT_EQ((std::vector<int64_t>{grid.height, grid.width, grid.rows, grid.cols, grid.tokens}),
              expected);
    const at::Tensor pixels_CHW = image_pixels(rgb_CHW, config);
    EXPECT_EQ(pixels_CHW.sizes().vec(), (std::vector<int64_t>{3, grid.height, grid.width}));
    EXPECT_EQ(sha1(pixels_CHW), golden["pixel_values_sha1"].get<std::string>());
  }
}

// users' pain point 8: image tokens and features differ in number.
TEST(Image, GridsOfTransformers) {
  const Json table = read_json(kImages / "grids.json");
  ASSERT_GE(table.size(), 400u);
  for (const Json& row : table) {
    const ImageGrid grid = image_grid(row[0], row[1], with_edge(row[2]));
    EXPECT_EQ(grid.height, row[3].get<int64_t>()) << row;
    EXPECT_EQ(grid.width, row[4].get<int64_t>()) << row;
    EXPECT_EQ(grid.tokens, grid.height / 28 * (grid.width / 28 + 1)) << row;
  }
}

// users' pain point 8: image tokens and features differ in number.
TEST(Image, GridsThatOthersGotWrong) {
  EXPECT_EQ(image_grid(675, 1080, {}), (ImageGrid{700, 1092, 25, 39, 25 * 40}));
  EXPECT_EQ(image_grid(29, 29, {}), (ImageGrid{56, 56, 2, 2, 6}));
  EXPECT_EQ(image_grid(1700, 1540, with_edge(1000)), (ImageGrid{1008, 924, 36, 33, 36 * 34}));
  EXPECT_EQ(image_grid(4000, 4000, {}), (ImageGrid{1540, 1540, 55, 55, 3080}));
  // The exact quotient is 28 k + 1; binary64 lands just below, which costs a row.
  EXPECT_EQ(image_grid(1971, 2044, {}).rows, 53);
  // A side that shrinks to nothing keeps one pixel.
  EXPECT_EQ(image_grid(1, 1700, {}), (ImageGrid{28, 1540, 1, 55, 56}));
  EXPECT_EQ(image_grid(100000, 1, {}), (ImageGrid{1540, 28, 55, 1, 110}));
  EXPECT_REFUSED(image_grid(0, 5, {}), "both sides must be positive");
  ImageProcessorConfig other;
  other.patch_size = 16;
  other.spatial_merge_size = 1;
  EXPECT_EQ(image_grid(33, 16, other), (ImageGrid{48, 16, 3, 1, 6}));
}

TEST(Image, EveryTruncationIsRefused) {
  for (const char* name : {"420.jpg", "progressive.jpg", "cmyk.jpg", "rgba_interlaced.png",
                           "rgb8.png", "lossy.webp", "lossless_alpha.webp"}) {
    SCOPED_TRACE(name);
    const std::string whole = file_text(name);
    ASSERT_EQ(refusal(whole), std::nullopt);
    // PNG pixels can be complete before the file ends: the check sum and IEND (and the end of the
    // zlib stream) follow.
    const size_t end = whole.starts_with("\x89PNG") ? whole.size() - 24 : whole.size();
    for (size_t size = 0; size < end; size += 1 + end / 97) {
      EXPECT_NE(refusal(whole.substr(0, size)), std::nullopt) << size << " of " << whole.size();
    }
    EXPECT_NE(refusal(whole.substr(0, end - 1)), std::nullopt);
  }
}

TEST(Image, DamageNeverCrashes) {
  // Flipped bytes may decode to other colours or be refused; under the sanitizers this also proves
  // the bounds.
  for (const char* name : {"420.jpg", "exif6.jpg", "exif6.png", "indexed_trns.png",
                           "rgba_interlaced.png", "lossy_alpha.webp", "exif6.webp"}) {
    const std::string whole = file_text(name);
    uint32_t state = 1;
    for (int round = 0; round < 300; ++round) {
      std::string damaged = whole;
      for (int i = 0; i < 3; ++i) {
        state = state * 1664525 + 1013904223;
        damaged[(state >> 8) % damaged.size()] = static_cast<char>(state);
      }
      refusal(damaged, {.max_pixels = 1'000'000});
    }
  }
}

TEST(Image, RefusalsSayWhatAndWhy) {
  EXPECT_EQ(refusal(""), "picture: the image is empty (0 bytes)");
  expect_mentions(refusal("hello, I am text"), {"not a JPEG, PNG or WebP"});
  expect_mentions(refusal(file_text("picture.gif")), {"GIF"});
  expect_mentions(refusal("<!DOCTYPE html>"), {"HTML"});
  expect_mentions(refusal(file_text("animated.webp")), {"animated"});
  expect_mentions(refusal(file_text("420.jpg").substr(0, 900)), {"truncated"});
  expect_mentions(refusal(file_text("rgb8.png").substr(0, 900)), {"truncated"});
}

TEST(Image, EndlessScansAreRefused) {
  const std::string whole = file_text("progressive.jpg");
  const size_t last_scan = whole.rfind("\xff\xda"), end = whole.rfind("\xff\xd9");
  ASSERT_LT(last_scan, end);
  std::string scans;
  for (int i = 0; i < 600; ++i) scans += whole.substr(last_scan, end - last_scan);
  const std::string many = whole.substr(0, end) + scans + whole.substr(end);
  expect_mentions(refusal(many), {"more than 500 scans"});
}

std::string big_endian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(value >> shift));
  return bytes;
}

TEST(Image, TooManyPixelsAreRefusedBeforeDecoding) {
  // A 10000 x 10000 header with a right check sum and no pixels at all: the size is what is
  // refused.
  const std::string png = std::string("\x89PNG\r\n\x1a\n", 8) + big_endian(13) + "IHDR" +
                          big_endian(10000) + big_endian(10000) +
                          std::string("\x08\x00\x00\x00\x00", 5) + big_endian(0x9f253dfb) +
                          big_endian(0) + "IDAT" + big_endian(0x35af061e);
  EXPECT_EQ(refusal(png),
            "picture: 10000 x 10000 = 100000000 pixels, over the limit of 89478485; scale the "
            "image down");
  for (const char* name : {"420.jpg", "rgb8.png", "lossy.webp", "lossless_alpha.webp"}) {
    const std::string text = file_text(name);
    const at::Tensor rgb_CHW = decode(text);
    const int64_t pixels = rgb_CHW.size(1) * rgb_CHW.size(2);
    EXPECT_EQ(refusal(text, {.max_pixels = pixels}), std::nullopt);
    expect_mentions(refusal(text, {.max_pixels = pixels - 1}), {"over the limit"});
  }
}

class ImageConfig : public testing::InDirectory<> {
 protected:
  void put(const char* file, std::string_view text) { write_text(directory_ / file, text); }
  ImageProcessorConfig read() { return read_image_processor_config(directory_); }
};

TEST_F(ImageConfig, DefaultsWithoutFiles) {
  const ImageProcessorConfig config = read();
  EXPECT_EQ(config.longest_edge, 1540);
  EXPECT_EQ(config.patch_size, 14);
  EXPECT_EQ(config.spatial_merge_size, 2);
}

TEST_F(ImageConfig, ReadsBothFiles) {
  put("preprocessor_config.json",
      R"({"size": {"longest_edge": 1024}, "patch_size": {"height": 16, "width": 16},
          "image_mean": [0.5, 0.25, 0.125], "rescale_factor": 0.00784313725490196, "resample": 3})");
  EXPECT_EQ(read().longest_edge, 1024);
  EXPECT_EQ(read().patch_size, 16);
  EXPECT_EQ(read().mean[2], 0.125);
  EXPECT_EQ(read().rescale_factor, 0.00784313725490196);
  put("processor_config.json",
      R"({"patch_size": 14, "spatial_merge_size": 3, "image_processor": {"size": {"longest_edge": 768},
          "patch_size": 28, "image_std": [0.5, 0.5, 0.25]}})");
  EXPECT_EQ(read().longest_edge, 768);
  EXPECT_EQ(read().patch_size, 14);
  EXPECT_EQ(read().spatial_merge_size, 3);
  EXPECT_EQ(read().std[2], 0.25);
}

// Mistral's own directories have params.json only; a processor's file counts before it.
TEST_F(ImageConfig, ReadsMistralsParams) {
  put("params.json", R"({"dim": 48, "vision_encoder": {"image_size": 1540, "max_image_size": 560,
          "patch_size": 16, "spatial_merge_size": 3}})");
  EXPECT_EQ(read().longest_edge, 560);
  EXPECT_EQ(read().patch_size, 16);
  EXPECT_EQ(read().spatial_merge_size, 3);
  put("processor_config.json", R"({"patch_size": 14})");
  EXPECT_EQ(read().patch_size, 14);
  EXPECT_EQ(read().longest_edge, 560);
  put("params.json", R"({"dim": 48})");
  EXPECT_EQ(read().longest_edge, 1540);
  put("params.json", R"({"vision_encoder": []})");
  EXPECT_REFUSED(read(), "params.json: \"vision_encoder\" is []");
}

TEST_F(ImageConfig, IsComparedWithTheModels) {
  const auto mismatch = [&] { return patch_mismatch(directory_, read()); };
  EXPECT_EQ(mismatch(), "");
  put("config.json", R"({"vision_config": {"patch_size": 14}, "spatial_merge_size": 2})");
  EXPECT_EQ(mismatch(), "");
  put("config.json", R"({"vision_config": {}})");  // transformers' 16
  expect_mentions(mismatch(), {"patch_size 16, but the image processor has 14 from the default"});
  put("preprocessor_config.json", R"({"patch_size": 16})");
  EXPECT_EQ(mismatch(), "");
  put("config.json", R"({"vision_config": {}, "spatial_merge_size": 3})");
  expect_mentions(mismatch(),
                  {"config.json has spatial_merge_size 3, but the image processor has 2"});
  put("config.json", R"({"text_config": {}})");  // no vision, no pictures
  EXPECT_EQ(mismatch(), "");
}

TEST_F(ImageConfig, RefusesWhatItCannotDo) {
  const std::string file = "processor_config.json";
  put(file.c_str(), "[]");
  EXPECT_REFUSED(read(), file + ": must hold a JSON object");
  for (const auto& [key, value] :
       {std::pair{"image_processor", "3"}, {"patch_size", "1e9"}, {"spatial_merge_size", "-1"}}) {
    put(file.c_str(), fmt::format(R"({{"{}": {}}})", key, value));
    EXPECT_REFUSED(read(), fmt::format("{}: \"{}\" is ", file, key));
  }
  for (const auto& [key, value] : {std::pair{"resample", "2"},
                                   {"do_resize", "false"},
                                   {"size", R"({"longest_edge": 0})"},
                                   {"size", R"({"height": 10, "width": 20})"},
                                   {"image_std", "[0.5, 0, 0.5]"},
                                   {"image_mean", "[0.5, 0.5]"},
                                   {"rescale_factor", "0"}}) {
    put(file.c_str(), fmt::format(R"({{"image_processor": {{"{}": {}}}}})", key, value));
    EXPECT_REFUSED(read(), fmt::format("{}, image_processor: \"{}\" is ", file, key));
  }
}

}  // namespace
}  // namespace trestle
