// Parses the pickle in `.metadata`. Called by TorchDistReader and the fuzzers only.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "pytorch/torch_dist.h"

namespace trestle {

struct TorchDistMetadata {
  std::map<std::string, TorchDistReader::Entry> tensors;
  std::map<std::string, TorchDistReader::Item> objects;
  /// File names; an Item's `file` counts into it.
  std::vector<std::string> files;
};

/// `what` names the file in the UserError. Item ranges are not compared with the files yet.
TorchDistMetadata parse_torch_dist_metadata(std::span<const std::byte> bytes,
                                            const std::string& what);
TorchDistMetadata read_torch_dist_metadata(const std::filesystem::path& path);

}  // namespace trestle
