#include "train/huggingface_folder.h"

#include <array>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "bridge/convert.h"
#include "checkpoint/config_difference.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_layout.h"
#include "hub/hub.h"
#include "megatron/checkpoint.h"
#include "peft/merged.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kSource = "checkpoint.hf_source_path";

void require_same_config(const fs::path& files, const std::string& given,
                         const OpenCheckpoint& base) {
  for (const ConfigDifference& each : config_differences(base.config(), read_hf_config(files))) {
    user_error("{}={} has {}={}, but the run's model has {}; name the model that it came from",
               kSource, given, each.key, each.theirs, each.ours);
  }
}

}  // namespace

std::optional<HuggingFaceFolder> huggingface_folder(const TrainConfig& config,
                                                    const OpenCheckpoint& base) {
  const CheckpointOptions& checkpoint = config.checkpoint;
  if (!checkpoint.also_save_hf_checkpoint) return std::nullopt;
  HuggingFaceFolder folder{.adapters = config.trains_adapters()};
  const std::string& source = checkpoint.hf_source_path;
  if (folder.adapters) {
    // A Megatron directory is no name that peft could look for.
    folder.base_name = !source.empty()      ? source
                       : base.is_megatron() ? ""
                                            : checkpoint.pretrained_checkpoint;
  } else if (!source.empty()) {
    folder.files = resolve_model(source, kSource, HubFiles::kAssets);
    require_directory(*folder.files, kSource);
    side_files(*folder.files);  // refused before the first step
    require_same_config(*folder.files, source, base);
  }
  return folder;
}

void write_folder(const HuggingFaceFolder& folder, const fs::path& iteration) {
  const fs::path target = iteration / kHuggingFaceFolder;
  if (folder.adapters) {
    export_peft_folder({.megatron = iteration}, folder.base_name, target, /*verify=*/false);
    return;
  }
  // A block at a time beside what the run holds anyway.
  export_checkpoint(iteration, folder.files, target,
                    {.max_memory = std::numeric_limits<uint64_t>::max()});
}

bool is_of_folder(const std::string& name) {
  constexpr std::array<std::string_view, 3> kNames = {"config.json", "adapter_config.json",
                                                      "model.safetensors.index.json"};
  return name.ends_with(".safetensors") || is_side_file(name) ||
         std::ranges::find(kNames, name) != kNames.end();
}

}  // namespace trestle
