#include "train/feature_cache.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include "base/digest.h"
#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "bridge/load_quantized.h"
#include "cpu/cpu.h"
#include "formats/safetensors.h"
#include "kernels/device.h"
#include "model/ministral3.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kTensor = "features";

std::string_view bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const char*>(contiguous.const_data_ptr()), contiguous.nbytes()};
}

std::string sha256(const at::Tensor& tensor) {
  Digest digest(Digest::Kind::kSha256);
  digest.update(bytes_of(tensor));
  return digest.hex();
}

bool is_frozen(const torch::nn::Module& module) {
  return std::ranges::none_of(module.parameters(), &at::Tensor::requires_grad);
}

bool has_constant_features(const Ministral3& model) {
  return model.vision_tower() != nullptr && is_frozen(*model.vision_tower()) &&
         is_frozen(*model.projector());
}

// What the config says that no shape of a weight does.
std::string describe(const ModelConfig& config) {
  const VisionConfig& vision = *config.vision;
  const ProjectorConfig& projector = config.projector;
  return fmt::format(
      "{} heads of {}, {} channels, patch {}, theta {}, act {}, merge {}, act {}, "
      "layers {}, eps {}",
      vision.num_attention_heads, vision.head_dim, vision.num_channels, vision.patch_size,
      vision.rope_theta, static_cast<int>(vision.hidden_act), projector.spatial_merge_size,
      static_cast<int>(projector.hidden_act), fmt::join(projector.vision_feature_layers, " "),
      config.text.rms_norm_eps);
}

void add_weights(Digest& digest, const torch::nn::Module& module) {
  const auto add = [&](const std::string& name, const at::Tensor& values) {
    const at::Tensor held = values.detach().cpu().contiguous();
    digest.update(fmt::format("{} {};", name, describe(info_of(held))));
    digest.update(bytes_of(held));
  };
  const auto linears = projections(module);
  for (const auto& entry : module.named_parameters()) {
    const auto found = linears.find(entry.key());
    const auto held = found == linears.end() ? NamedTensors{} : held_tensors(*found->second);
    for (const auto& [name, values] : held) add(entry.key() + " " + name, values);
    if (held.empty()) add(entry.key(), entry.value());
  }
}

// The version is of this file: raise it when the same weights and pixels give other bits.
std::string fingerprint_of(const Ministral3& model) {
  Digest digest(Digest::Kind::kSha256);
  // Its two paths sum in other orders.
  const char* bf16 = bf16_path() == Bf16Path::kNative ? "" : ", bf16 widened 2";
  const at::Device device = model.build().device;
  const std::string computer =
      device.is_cpu()
          ? fmt::format("{}{}, {} threads", at::get_cpu_capability(), bf16, at::get_num_threads())
          : device_name(device);
  digest.update(fmt::format("trestle features 1, torch {}, {};{};", TORCH_VERSION, computer,
                            describe(model.config())));
  add_weights(digest, *model.vision_tower());
  add_weights(digest, *model.projector());
  return digest.hex();
}

}  // namespace

std::unique_ptr<FeatureCache> FeatureCache::make(const Ministral3& model,
                                                 const DatasetOptions& options) {
  if (options.feature_cache_mb == 0 && options.feature_cache.empty()) return nullptr;
  if (!has_constant_features(model)) {
    if (!options.feature_cache.empty()) {
      fmt::print(stderr, "dataset.feature_cache={} stays unused: {}\n", options.feature_cache,
                 model.vision_tower() == nullptr ? "the model has no vision tower"
                                                 : "vision tower or projector train");
    }
    return nullptr;
  }
  // One that cannot be made costs only the features, but a link that leads nowhere is a mistake.
  const fs::path directory = options.feature_cache;
  std::error_code ignored;
  if (is_there(directory)) {
    require_directory(directory, "dataset.feature_cache");
  } else if (fs::is_symlink(fs::symlink_status(directory, ignored))) {
    require_output_folder(directory, "dataset.feature_cache");
  }
  return std::unique_ptr<FeatureCache>(new FeatureCache(model, options));
}

FeatureCache::FeatureCache(const Ministral3& model, const DatasetOptions& options)
    : model_(model),
      directory_(options.feature_cache),
      memory_left_(options.feature_cache_mb << 20) {}

std::vector<at::Tensor> FeatureCache::fill(ModelInput& input) {
  std::vector<at::Tensor> all, made;
  for (const at::Tensor& image : input.images_CHW) {
    const int64_t before = counts_.made;
    all.push_back(features(image));
    if (counts_.made > before) made.push_back(image);
  }
  if (!all.empty()) {
    input.features = (all.size() == 1 ? all.front() : at::cat(all)).to(model_.build().device);
  }
  return made;
}

at::Tensor FeatureCache::features(const at::Tensor& image_CHW) {
  const std::string name = key(image_CHW);
  if (const auto found = kept_.find(name); found != kept_.end()) {
    ++counts_.from_memory;
    return found->second;
  }
  at::Tensor made = read(name, image_CHW);
  if (made.defined()) {
    ++counts_.from_disk;
  } else {
    made = model_.image_features({image_CHW}).cpu().contiguous();
    ++counts_.made;
    write(name, made);
  }
  keep(name, made);
  return made;
}

std::string FeatureCache::key(const at::Tensor& image_CHW) {
  // A cache that no other run sees has one model only.
  if (fingerprint_.empty() && !directory_.empty()) fingerprint_ = fingerprint_of(model_);
  const at::Tensor pixels = image_CHW.cpu().contiguous();
  Digest digest(Digest::Kind::kSha256);
  digest.update(fmt::format("{} {};", fingerprint_, describe(info_of(pixels))));
  digest.update(bytes_of(pixels));
  return digest.hex();
}

at::Tensor FeatureCache::read(const std::string& key, const at::Tensor& image_CHW) const {
  const fs::path path = directory_ / (key + ".safetensors");
  if (directory_.empty() || !is_there(path)) return {};
  const ModelConfig& config = model_.config();
  const int64_t side = config.vision->patch_size * config.projector.spatial_merge_size;
  const TensorInfo wanted{
      model_.build().dtype,
      {(image_CHW.size(1) / side) * (image_CHW.size(2) / side), config.text.hidden_size}};
  try {
    const SafetensorsFile file(path);
    const auto says = [&](const char* what, const std::string& value) {
      const auto found = file.metadata().find(what);
      return found != file.metadata().end() && found->second == value;
    };
    if (!says("key", key) || file.tensors().size() != 1 || !file.tensors().contains(kTensor) ||
        file.tensors().at(kTensor) != wanted) {
      return {};
    }
    at::Tensor features = file.read(kTensor).clone();
    return says("sha256", sha256(features)) ? features : at::Tensor();
  } catch (const UserError&) {
    return {};
  }
}

void FeatureCache::write(const std::string& key, const at::Tensor& features) {
  if (directory_.empty()) return;
  try {
    SafetensorsWriter writer(directory_ / (key + ".safetensors"), {{kTensor, info_of(features)}},
                             {{"key", key}, {"sha256", sha256(features)}});
    writer.write(kTensor, features);
    writer.commit();
  } catch (const MachineError& error) {
    // Training needs no cache.
    fmt::print(stderr, "warning: {}; dataset.feature_cache is not used any more\n", error.what());
    directory_.clear();
  }
}

void FeatureCache::keep(const std::string& key, const at::Tensor& features) {
  // Nothing makes room for others: an epoch comes by every picture once, so that of a data set
  // larger than the memory the least recently seen ones are those that come next.
  const auto bytes = static_cast<int64_t>(features.nbytes());
  if (bytes > memory_left_) return;
  memory_left_ -= bytes;
  kept_.emplace(key, features);
}

}  // namespace trestle
