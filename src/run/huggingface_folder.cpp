#include "run/huggingface_folder.h"

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
  std::optional<fs::path> files;
  // Of an adapter a name on the Hub is what its readers will look for, who may have a network.
  const bool is_name = folder.adapters && hub_name_of(source, HubKind::kModel);
  if (!source.empty() && !is_name) {
    files = resolve_model(source, kSource, HubFiles::kAssets);
    require_directory(*files, kSource);
    require_same_config(*files, source, base);
  }
  // Refused before the first step.
  const std::vector<fs::path> side = files ? side_files(*files) : base.side_files();
  if (folder.adapters) {
    // A Megatron directory is no name that peft could look for.
    folder.base_name = !source.empty()      ? source
                       : base.is_megatron() ? ""
                                            : checkpoint.pretrained_checkpoint;
    return folder;
  }
  folder.files = std::move(files);
  for (const fs::path& file : side) {
    if (belongs_beside(file, HfSpelling::kLanguageModelFirst)) {
      folder.side_files.insert(file.filename().string());
    }
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

}  // namespace trestle
