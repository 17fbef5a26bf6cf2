// Features of pictures that a frozen vision tower and projector make once and for all: kept in
// memory, and on disk for later runs. Called by the trainer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/input.h"
#include "recipes/config.h"

namespace trestle {

class Ministral3;

/// A picture's features are found by the SHA-256 of its pixels as the tower takes them and of
/// everything else that settles the bits: weights, dtype and config of tower and projector, torch's
/// version, and the card, or the instructions and threads it uses. Features are kept in the
/// machine's memory, wherever the model is.
class FeatureCache {
 public:
  struct Counts {
    int64_t made = 0, from_memory = 0, from_disk = 0;
  };

  /// As dataset.feature_cache and dataset.feature_cache_mb say; null where they turn it off, or
  /// where tower or projector are missing or train. The model must live as long and keep these
  /// weights. Throws UserError when dataset.feature_cache is there and no directory.
  static std::unique_ptr<FeatureCache> make(const Ministral3& model, const DatasetOptions& options);

  /// Sets input.features to the bits that model.image_features would give. Returns the pictures
  /// whose features were made for it.
  std::vector<at::Tensor> fill(ModelInput& input);
  const Counts& counts() const { return counts_; }

 private:
  FeatureCache(const Ministral3& model, const DatasetOptions& options);
  at::Tensor features(const at::Tensor& image_CHW);
  std::string key(const at::Tensor& image_CHW);
  /// Undefined where there is no file, or none of this key that is whole.
  at::Tensor read(const std::string& key, const at::Tensor& image_CHW) const;
  void write(const std::string& key, const at::Tensor& features);
  void keep(const std::string& key, const at::Tensor& features);

  const Ministral3& model_;
  std::filesystem::path directory_;
  int64_t memory_left_;
  /// Of all that is not the picture; made with the first one where there is a directory.
  std::string fingerprint_;
  std::unordered_map<std::string, at::Tensor> kept_;
  Counts counts_;
};

}  // namespace trestle
