#include "flags/format_flag.h"

#include "base/error.h"
#include "hub/hub.h"

namespace trestle {

void FormatFlag::add_to(Command command) {
  command
      .add(
          "--format", name,
          "hf, mistral, megatron or packed (trestle quantize's): which form to read of a directory "
          "that holds several; default: Megatron's, then Hugging Face's, then Mistral's")
      .one_of({"hf", "mistral", "megatron", "packed"});
}

std::optional<CheckpointFormat> FormatFlag::asked() const {
  for (const CheckpointFormat format : {CheckpointFormat::kHf, CheckpointFormat::kMistral,
                                        CheckpointFormat::kMegatron, CheckpointFormat::kPacked}) {
    if (name == format_name(format)) return format;
  }
  return std::nullopt;
}

void FormatFlag::refuse(std::string_view why) const {
  if (!name.empty()) user_error("--format {} has no effect: {}; leave it out", name, why);
}

std::filesystem::path FormatFlag::resolve(const std::string& given, std::string_view flag) const {
  return resolve_model(
      given, flag,
      asked() == CheckpointFormat::kMistral ? HubFiles::kConsolidated : HubFiles::kModel);
}

CheckpointFormat FormatFlag::settle(const std::filesystem::path& directory,
                                    bool takes_packed) const {
  const FormatChoice choice = choose_format(directory, asked());
  if (choice.format == CheckpointFormat::kPacked && !takes_packed) refuse_packed(directory);
  if (!choice.note.empty()) fmt::print(stderr, "{}\n", choice.note);
  return choice.format;
}

}  // namespace trestle
