#include <cmath>
#include <tuple>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/paths.h"
#include "image/pixels.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr int64_t kBicubic = 3;  // Pillow's number
constexpr int64_t kMaxSide = 1 << 16;

/// One JSON object of a processor file, with its name for the errors.
struct Section {
  const Json& json;
  std::string name;

  const Json* find(const char* key) const {
    const auto it = json.find(key);
    return it == json.end() || it->is_null() ? nullptr : &*it;
  }

  [[noreturn]] void refuse(const char* key, std::string_view wanted) const {
    user_error("{}: \"{}\" is {}, but it must be {}", name, key, json.at(key).dump(), wanted);
  }

  bool is_side(const Json& value) const {
    return value.is_number_integer() && value > 0 && value <= kMaxSide;
  }

  /// 14, {"height": 14, "width": 14} or {"longest_edge": 14}: the square sides that the processor
  /// accepts.
  void read_side(const char* key, int64_t& side) const {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (value->is_object()) {
      const Json& object = *value;
      if (object.contains("longest_edge")) {
        value = &object["longest_edge"];
      } else if (object.contains("height") && object.contains("width") &&
                 object["height"] == object["width"]) {
        value = &object["height"];
      }
    }
    if (!is_side(*value)) refuse(key, fmt::format("one side from 1 to {} pixels", kMaxSide));
    side = value->get<int64_t>();
  }

  void read_channels(const char* key, std::array<double, 3>& channels, bool positive) const {
    const Json* value = find(key);
    if (value == nullptr) return;
    bool good = value->is_array() && value->size() == 3;
    for (size_t c = 0; good && c < 3; ++c) {
      const Json& entry = (*value)[c];
      good = entry.is_number() && (!positive || entry > 0);
      if (good) channels[c] = entry.get<double>();
    }
    if (!good) refuse(key, positive ? "three positive numbers" : "three numbers");
  }

  void require_true(const char* key) const {
    const Json* value = find(key);
    if (value != nullptr && *value != true) refuse(key, "true");
  }
};

void read_image_processor(const Section& section, ImageProcessorConfig& config) {
  section.read_side("size", config.longest_edge);
  section.read_side("patch_size", config.patch_size);
  section.read_channels("image_mean", config.mean, false);
  section.read_channels("image_std", config.std, true);
  if (const Json* factor = section.find("rescale_factor")) {
    if (!factor->is_number() || !(*factor > 0))
      section.refuse("rescale_factor", "a positive number");
    config.rescale_factor = factor->get<double>();
  }
  if (const Json* resample = section.find("resample"); resample && *resample != kBicubic) {
    section.refuse("resample", "3 (bicubic)");
  }
  for (const char* key : {"do_resize", "do_rescale", "do_normalize"}) section.require_true(key);
}

// The file that says `key` of the processor: the last of those read that holds it anywhere.
std::string processor_source(const fs::path& directory, const std::string& key) {
  for (const char* file : {"processor_config.json", "preprocessor_config.json", "params.json"}) {
    const fs::path path = directory / file;
    if (has_file(path) && read_json(path).dump().find("\"" + key + "\":") != std::string::npos) {
      return path.string();
    }
  }
  return "the default, as no processor_config.json states it";
}

}  // namespace

ImageProcessorConfig read_image_processor_config(const fs::path& directory) {
  ImageProcessorConfig config;
  const auto read = [&](const char* file, auto use) {
    const fs::path path = directory / file;
    if (!has_file(path)) return;
    const Json json = read_json(path);
    if (!json.is_object()) user_error("{}: must hold a JSON object", path.string());
    use(Section{json, path.string()});
  };
  // Mistral's own directories have no file for the processor.
  read("params.json", [&](const Section& s) {
    const Json* vision = s.find("vision_encoder");
    if (vision == nullptr) return;
    if (!vision->is_object()) s.refuse("vision_encoder", "a JSON object");
    const Section section{*vision, s.name + ", vision_encoder"};
    section.read_side("image_size", config.longest_edge);
    section.read_side("max_image_size", config.longest_edge);
    section.read_side("patch_size", config.patch_size);
    section.read_side("spatial_merge_size", config.spatial_merge_size);
  });
  // Older checkpoints keep the image part in a file of its own; in newer ones it is a section of
  // processor_config.json, whose own patch_size counts last because that is what the processor
  // passes on.
  read("preprocessor_config.json", [&](const Section& s) { read_image_processor(s, config); });
  read("processor_config.json", [&](const Section& s) {
    if (const Json* part = s.find("image_processor")) {
      if (!part->is_object()) s.refuse("image_processor", "a JSON object");
      read_image_processor({*part, s.name + ", image_processor"}, config);
    }
    s.read_side("patch_size", config.patch_size);
    s.read_side("spatial_merge_size", config.spatial_merge_size);
  });
  return config;
}

std::string text_only_model(const fs::path& directory) {
  // What names the kind of model, and what it has if it sees.
  for (const auto& [file, kind, tower] : {std::tuple{"config.json", "model_type", "vision_config"},
                                          std::tuple{"params.json", "dim", "vision_encoder"}}) {
    const fs::path path = directory / file;
    if (!has_file(path)) continue;
    const Json model = read_json(path);
    if (!model.is_object() || !model.contains(kind)) return "";
    if (model.contains(tower) && !model[tower].is_null()) return "";
    return fmt::format("{} is of a text-only model (it has no {}), which takes no pictures",
                       path.string(), tower);
  }
  return "";
}

std::string patch_mismatch(const fs::path& directory, const ImageProcessorConfig& config) {
  const fs::path path = directory / "config.json";
  if (!has_file(path)) return "";
  const Json model = read_json(path);
  if (!model.is_object() || !model.contains("vision_config") ||
      !model["vision_config"].is_object()) {
    return "";
  }
  // As transformers has them where the config says nothing.
  const auto side = [](const Json& json, const char* key, int64_t otherwise) {
    const auto it = json.find(key);
    return it != json.end() && it->is_number_integer() ? it->get<int64_t>() : otherwise;
  };
  const auto compare = [&](const char* key, int64_t theirs, int64_t ours) -> std::string {
    if (theirs == ours) return "";
    return fmt::format(
        "{} has {} {}, but the image processor has {} from {}; add the model's own "
        "processor_config.json",
        path.string(), key, theirs, ours, processor_source(directory, key));
  };
  std::string line =
      compare("patch_size", side(model["vision_config"], "patch_size", 16), config.patch_size);
  if (!line.empty()) return line;
  return compare("spatial_merge_size", side(model, "spatial_merge_size", 2),
                 config.spatial_merge_size);
}

}  // namespace trestle
