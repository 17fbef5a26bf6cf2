// A conversation with pictures becomes what the model takes: ids with their labels, and pixels. One
// path for training, evaluation and generation, so that they cannot differ. Called by the data
// sets, generate and the demo.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/chat.h"
#include "image/pixels.h"
#include "tokenizer/tokenizer.h"

namespace trestle {

struct Sample {
  std::vector<int64_t> ids;
  /// labels[i] is what follows ids[i], or -100: next_token_labels.
  std::vector<int64_t> labels;
  /// fp32 [3, H, W], in order of appearance.
  std::vector<at::Tensor> images_CHW;
  /// Where the ids of each picture lie: [begin, end).
  std::vector<std::pair<int64_t, int64_t>> image_spans = {};
  int64_t targets() const;
};

/// Bounds on pictures beside the checkpoint's own; 0: none.
struct ImageLimits {
  /// Pixels of the longest side.
  int64_t max_edge = 0;
  /// Ids of a picture, row ends included; 2 at least.
  int64_t max_tokens = 0;
};

class Processor {
 public:
  /// Opens the tokenizer and the image processor's settings of a checkpoint directory.
  explicit Processor(const std::filesystem::path& directory, const ImageLimits& limits = {});

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const ImageProcessorConfig& images() const { return images_; }

  /// Loads the pictures (path, URL, data: URI or bytes), encodes the conversation around them and
  /// cuts nothing. `image_tokens` bounds the ids of each picture further; 0: it does not. Throws
  /// UserError naming the picture or the message, and for any picture where the directory's model
  /// is of text only (text_only_model) or cuts it into other patches than its image processor
  /// (patch_mismatch).
  Sample process(Conversation conversation, Ending ending, int64_t image_tokens = 0) const;

 private:
  Tokenizer tokenizer_;
  ChatEncoder encoder_;
  ImageProcessorConfig images_;
  std::string no_pictures_;  // empty, or why no picture can be taken
};

}  // namespace trestle
