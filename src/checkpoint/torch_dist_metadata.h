// Parses the pickle in `.metadata`. Called by TorchDistReader only.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/torch_dist.h"

namespace trestle {

struct TorchDistMetadata {
  std::map<std::string, TorchDistReader::Entry> tensors;
  std::map<std::string, TorchDistReader::Item> objects;
  /// File names; an Item's `file` counts into it.
  std::vector<std::string> files;
};

/// Throws UserError naming `path`. Item ranges are not compared with the files yet.
TorchDistMetadata read_torch_dist_metadata(const std::filesystem::path& path);

}  // namespace trestle
