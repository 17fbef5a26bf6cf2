// --format, the same for every command that reads a checkpoint.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/format.h"
#include "flags/command.h"

namespace trestle {

struct FormatFlag {
  /// hf, mistral, megatron, packed; empty for the precedence of choose_format.
  std::string name;

  void add_to(Command command);
  /// The form asked for, if one was.
  std::optional<CheckpointFormat> asked() const;
  /// The directory that `flag` names, perhaps on the Hub; the form asked for is downloaded.
  std::filesystem::path resolve(const std::string& given, std::string_view flag) const;
  /// Throws UserError where a form was asked for: there is nothing to choose, for `why`.
  void refuse(std::string_view why) const;
  /// The form to read. Says so on stderr where the directory holds several. Throws UserError where
  /// it is weights in panels and the caller takes none.
  CheckpointFormat settle(const std::filesystem::path& directory, bool takes_packed = false) const;
};

}  // namespace trestle
