// Which form a checkpoint directory has, and the choice where it has several. The one place that
// decides: called by the bridge and by the commands with a --format flag.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/json.h"
#include "checkpoint/hf_checkpoint.h"

namespace trestle {

enum class CheckpointFormat { kHf, kMistral, kMegatron, kPacked };

/// "hf", "mistral", "megatron", "packed": what --format takes.
std::string_view format_name(CheckpointFormat format);

struct FormatChoice {
  CheckpointFormat format;
  /// One line, where the directory has more than one form: which is read, how large each is and how
  /// to choose.
  std::string note;
};

/// A directory with Megatron's marks (a tracker file, .metadata) is Megatron's; else Hugging Face's
/// files (model.safetensors or its index) come before Mistral's (consolidated.safetensors or its
/// index), and packed.safetensors comes last. `asked` overrides; a UserError where the directory
/// has other forms only. A directory of no form counts as Hugging Face's, whose reader says what is
/// missing.
FormatChoice choose_format(const std::filesystem::path& directory,
                           std::optional<CheckpointFormat> asked = {});

/// Opens Hugging Face's or Mistral's form. Throws UserError for others, and whatever the readers
/// refuse.
std::unique_ptr<HfCheckpoint> open_model_directory(const std::filesystem::path& directory,
                                                   CheckpointFormat format);

/// Throws the UserError of who takes no weights in panels, which were rounded to be decoded with.
[[noreturn]] void refuse_packed(const std::filesystem::path& directory);

/// config.json of a directory, or params.json in its words where there is only that; with the name
/// of the file.
std::pair<Json, std::string> read_config_json(const std::filesystem::path& directory);

/// What the config of that form says, without its weights. Throws as open_model_directory.
ModelConfig read_model_config(const std::filesystem::path& directory, CheckpointFormat format);

}  // namespace trestle
