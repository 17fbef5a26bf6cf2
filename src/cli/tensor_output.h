// The safetensors files that commands write for parity checks: their metadata says which command's,
// so that it may write over them. Called by logits and preprocess.
#pragma once

#include <map>
#include <string>

#include "base/json.h"
#include "base/paths.h"

namespace trestle {

struct TensorOutput {
  const char* command;

  /// For SafetensorsWriter.
  std::map<std::string, std::string> metadata() const {
    return {{"format", "pt"}, {"trestle", command}};
  }
  /// The metadata open the file.
  OutputKind kind() const { return {.name = "tensor file", .mark = Json(metadata()).dump()}; }
};

}  // namespace trestle
