#include "flags/model_flags.h"

#include "base/error.h"
#include "base/file.h"
#include "bridge/load_quantized.h"
#include "checkpoint/packed_checkpoint.h"
#include "flags/number_flag.h"
#include "hub/hub.h"
#include "model/ministral3.h"
#include "peft/lora.h"
#include "recipes/config.h"

namespace trestle {

namespace {

// As peft.base_bits says it.
std::string_view bits_of(std::string_view weights) {
  if (weights.empty() || weights == "bf16") return "16";
  if (weights == "int8") return "8";
  if (weights == "int4") return "4";
  return weights;
}

// What decoding on a CPU reads; nothing of forms that training has too.
std::optional<PanelForm> panels_of(std::string_view weights, bool half) {
  if (const auto form = panel_form_of(weights); form && form != PanelForm::kBf16) return form;
  return half && bits_of(weights) == "16" ? std::optional(PanelForm::kBf16) : std::nullopt;
}

}  // namespace

void ModelFlags::add_to(Command command) {
  command.add("--hf-model-path,--hf_model_path", hf_model_path,
              "Hugging Face or Mistral directory, or ORG/NAME[@REVISION]: weights, config, "
              "tokenizer");
  command.add("--megatron-model-path,--megatron_model_path", megatron_model_path,
              "Megatron checkpoint: weights, and what no HF directory gives");
  command.add("--adapter-path,--adapter_path", adapter_path,
              "LoRA or DoRA adapter for that model: a PEFT folder, ORG/NAME[@REVISION] or a run of "
              "adapters");
  command.add("--dtype", dtype, "float32 or bfloat16; default: the checkpoint's")
      .one_of({"float32", "bfloat16"});
  command
      .add(
          "--weights,--base-bits,--base_bits", weights,
          "how the weights are held: bf16, int8 or int4 (a scale for each 32 of a row), or fp8 "
          "(projections that the checkpoint has so, as they are); or 16 (as --dtype), 8 or 4 (NF4) "
          "as peft.base_bits of a run names the bits of the projections that it was trained on")
      .one_of({"bf16", "fp8", "int8", "int4", "16", "8", "4"});
  format.add_to(command);
  device.add_to(command);
}

void add_image_flags(Command command, ImageLimits& limits) {
  add_number(command, "--image-max-edge,--image_max_edge", limits.max_edge, kMaxEdgeRange,
             "pixels of a picture's longest side at most; 0: the checkpoint's own limit");
  add_number(command, "--image-max-tokens,--image_max_tokens", limits.max_tokens, kMaxTokensRange,
             "tokens of a picture at most; 0: no limit of its own");
}

void refuse_image_flags(const Command& command, std::string_view why) {
  command.refuse_given({"--image-max-edge", "--image-max-tokens"}, why);
}

OpenCheckpoint ModelFlags::open_named() const {
  constexpr const char *kHf = "--hf-model-path", *kMegatron = "--megatron-model-path";
  if (megatron_model_path.empty()) {
    if (hf_model_path.empty()) user_error("give {} or {}", kHf, kMegatron);
    const auto model = format.resolve(hf_model_path, kHf);
    return OpenCheckpoint(model, {}, format.settle(model, /*takes_packed=*/true));
  }
  const auto weights = format.resolve(megatron_model_path, kMegatron);
  const CheckpointFormat form = format.settle(weights, /*takes_packed=*/true);
  if (hf_model_path.empty()) return OpenCheckpoint(weights, {}, form);
  if (form != CheckpointFormat::kMegatron && is_there(weights)) {
    user_error(
        "{} {} has no effect: {} {} is no Megatron checkpoint but read as {}, with its own config "
        "and tokenizer; leave one of them out",
        kHf, hf_model_path, kMegatron, megatron_model_path, format_name(form));
  }
  return OpenCheckpoint(weights, resolve_model(hf_model_path, kHf, HubFiles::kAssets), form);
}

OpenCheckpoint ModelFlags::open() const {
  device.choose();
  OpenCheckpoint checkpoint = open_named();
  if (checkpoint.packed()) require_packed_as_asked(*checkpoint.packed());
  if (weights == "bf16" && dtype == "float32") {
    user_error(
        "--weights bf16 and --dtype float32 name two dtypes of the same weights; leave one "
        "of them out");
  }
  if (weights == "fp8" && count_fp8(checkpoint.weights(), checkpoint.config()) == 0) {
    user_error("--weights fp8 has no effect: no projection of the model is in FP8; leave it out");
  }
  return checkpoint;
}

void ModelFlags::require_packed_as_asked(PanelForm form) const {
  const std::string_view held = panel_form_name(form);
  constexpr const char* kElse = "name the checkpoint that they were made of";
  if (!weights.empty() && weights != held) {
    user_error("--weights {}: the model's are packed in {}; leave it out, or {}", weights, held,
               kElse);
  }
  if (form == PanelForm::kBf16 && dtype == "float32") {
    user_error("--dtype float32: the model's weights are packed in bf16; leave it out, or {}",
               kElse);
  }
  if (device.name != "auto" && !device.choose().is_cpu()) {
    user_error("--device {}: the model's weights are in panels, for a CPU; leave it out, or {}",
               device.name, kElse);
  }
}

std::shared_ptr<Ministral3> ModelFlags::load(const OpenCheckpoint& checkpoint) const {
  const bool half = weights == "bf16" ||
                    (dtype.empty() ? checkpoint.dtype() == at::kBFloat16 : dtype == "bfloat16");
  const at::Device where = checkpoint.packed() ? at::Device(at::kCPU) : device.choose_and_tell();
  const auto panels = checkpoint.packed() ? checkpoint.packed()
                      : where.is_cpu()    ? panels_of(weights, half)
                                          : std::nullopt;
  Build build =
      base_build(half ? at::kBFloat16 : at::kFloat, panels ? "16" : bits_of(weights), where);
  build.panels = panels;
  auto model = load_model(checkpoint, build);
  if (!adapter_path.empty()) {
    const auto adapter = resolve_model(adapter_path, "--adapter-path");
    if (load_adapter(*model, adapter).changes_nothing) {
      fmt::print(stderr, "{}\n", nothing_changes_warning(adapter));
    }
  }
  model->eval();
  return model;
}

}  // namespace trestle
