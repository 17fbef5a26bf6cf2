// The flags with which `trestle generate` and `trestle logits` name a model, and the model that
// they name.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bridge/load.h"
#include "data/processor.h"
#include "flags/command.h"
#include "flags/device_flag.h"
#include "flags/format_flag.h"

namespace trestle {

class Ministral3;

struct ModelFlags {
  std::string hf_model_path, megatron_model_path, adapter_path, dtype;
  /// Empty where nothing is said: 16, or as weights in panels are.
  std::string weights;
  FormatFlag format;
  DeviceFlag device;

  void add_to(Command command);
  /// Weights from the Megatron checkpoint where one is given; config and tokenizer from the HF
  /// directory where one is. Cheap: no weight is read. Throws UserError when neither is given, or
  /// both and the first is no Megatron checkpoint, for --weights fp8 of a model that has none,
  /// --weights bf16 in float32, for other --weights or another device than weights in panels are
  /// for, and for a --device that is not there.
  OpenCheckpoint open() const;
  /// With the adapter, in eval mode, on the device; in the asked dtype, or else the checkpoint's if
  /// it is bfloat16, or else float32.
  std::shared_ptr<Ministral3> load(const OpenCheckpoint& checkpoint) const;

 private:
  OpenCheckpoint open_named() const;
  void require_packed_as_asked(PanelForm form) const;
};

/// --image-max-edge and --image-max-tokens.
void add_image_flags(Command command, ImageLimits& limits);
/// Throws UserError where one of them is given although there are no pictures, for `why`.
void refuse_image_flags(const Command& command, std::string_view why);

}  // namespace trestle
