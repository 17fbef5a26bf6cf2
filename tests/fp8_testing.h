// Model directories with FP8 weights, as the official Instruct files have them and with the scales
// that others have. Shared by the tests of the bridge and of the trainer.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>

#include "bridge/table.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_layout.h"
#include "hf_testing.h"

namespace trestle::testing {

/// Rows and columns that share a scale; 0 is all of them.
struct Fp8Form {
  const char* name;
  int64_t rows, columns;
};
inline constexpr Fp8Form kPerTensor{"tensor", 0, 0}, kPerRow{"row", 1, 0},
    kPerBlock{"block", 128, 128}, kPerOddBlock{"odd", 20, 36},
    kPerWideBlock{"wide", 20, int64_t{1} << 20};

/// A weight as a file has it: e4m3 codes and their scales, [] or a grid; amax / 448 each.
inline std::pair<at::Tensor, at::Tensor> to_fp8(const at::Tensor& weight, const Fp8Form& form) {
  const int64_t rows = form.rows == 0 ? weight.size(0) : form.rows;
  const int64_t columns = form.columns == 0 ? weight.size(1) : form.columns;
  at::Tensor codes = at::empty(weight.sizes(), at::kFloat8_e4m3fn);
  at::Tensor scales =
      at::empty({(weight.size(0) + rows - 1) / rows, (weight.size(1) + columns - 1) / columns});
  for (int64_t r = 0; r < scales.size(0); ++r) {
    for (int64_t c = 0; c < scales.size(1); ++c) {
      const auto block = [&](const at::Tensor& all) {
        return all.slice(0, r * rows, (r + 1) * rows).slice(1, c * columns, (c + 1) * columns);
      };
      const at::Tensor scale = block(weight).abs().max() / 448;
      block(codes).copy_((block(weight) / scale).clamp(-448, 448).to(at::kFloat8_e4m3fn));
      scales[r][c].copy_(scale);
    }
  }
  return {codes, form.rows == 0 ? scales.view(at::IntArrayRef{}) : scales};
}

/// Whether a tensor of a canonical name is to be FP8.
using IsFp8 = std::function<bool(const std::string&)>;
/// What the official files have so: the projections of the language model.
inline bool is_language_projection(const std::string& name) {
  return name.starts_with("model.layers.") && name.ends_with("_proj.weight");
}
/// And of the vision tower and the projector.
inline bool is_projection(const std::string& name) {
  return name.starts_with("model.layers.") || name.starts_with("vision_tower.transformer.")
             ? name.ends_with("_proj.weight")
             : name.starts_with("multi_modal_projector.") && !name.ends_with("norm.weight");
}

/// A directory with the fixture's tokenizer and a model of a wider hidden size, 160, whose ffn is
/// 300: over a block of 128 and no multiple of it. Its weights are random, those of `is_fp8` e4m3
/// with scales of `form` and with an activation_scale, which nobody reads; the rest is bf16.
inline void write_fp8_model(const fs::path& target, const Fp8Form& form,
                            const IsFp8& is_fp8 = is_language_projection) {
  Json config = read_json(kUntied / "config.json");
  config["text_config"]["hidden_size"] = 160;
  config["text_config"]["intermediate_size"] = 300;
  config["quantization_config"] = {
      {"quant_method", "fp8"},
      {"activation_scheme", "static"},
      {"weight_block_size", form.columns == 0 ? Json() : Json{form.rows, form.columns}},
      {"modules_to_not_convert", {"vision_tower", "multi_modal_projector", "lm_head"}}};
  NamedTensors tensors;
  at::manual_seed(17);
  for (const Mapping& mapping : mappings(parse_hf_config(config, "config.json"))) {
    for (size_t part = 0; part < mapping.hf.size(); ++part) {
      const std::string& name = mapping.hf[part];
      const auto spelled = [&](const std::string& canonical) {
        return spelled_name(canonical, HfSpelling::kLanguageModelFirst);
      };
      const auto shape = mapping.hf_shape(part);
      if (shape.size() < 2) {
        tensors.emplace_back(spelled(name), at::ones(shape, at::kBFloat16));
        continue;
      }
      at::Tensor weight = at::randn(shape);
      weight /= std::sqrt(static_cast<double>(weight.numel() / shape[0]));
      if (!is_fp8(name)) {
        tensors.emplace_back(spelled(name), weight.to(at::kBFloat16));
        continue;
      }
      const auto [codes, scales] = to_fp8(weight, form);
      tensors.emplace_back(spelled(name), codes);
      tensors.emplace_back(spelled(name + "_scale_inv"), scales);
      const std::string module = spelled(name).substr(0, spelled(name).rfind('.'));
      tensors.emplace_back(module + ".activation_scale", at::scalar_tensor(0.01));
    }
  }
  fs::create_directories(target);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
    fs::copy_file(kUntied / file, target / file);
  }
  Json processor = read_json("../assets/demo/model/processor_config.json");
  const Json& patch = config["vision_config"]["patch_size"];
  processor["patch_size"] = processor["image_processor"]["patch_size"] = patch;
  write_json(target / "processor_config.json", processor);
  write_json(target / "config.json", config);
  write_safetensors(target / "model.safetensors", tensors);
}

}  // namespace trestle::testing
