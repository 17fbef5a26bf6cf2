#include "data/processor.h"

#include <algorithm>

#include "base/error.h"
#include "image/fetch.h"
#include "image/image.h"

namespace trestle {

int64_t Sample::targets() const {
  return std::count_if(labels.begin(), labels.end(), [](int64_t label) { return label != -100; });
}

Processor::Processor(const std::filesystem::path& directory, const ImageLimits& limits)
    : tokenizer_(Tokenizer::open(directory)),
      encoder_(tokenizer_),
      images_(read_image_processor_config(directory)),
      no_pictures_(text_only_model(directory)) {
  if (no_pictures_.empty()) no_pictures_ = patch_mismatch(directory, images_);
  if (limits.max_edge > 0) images_.longest_edge = std::min(images_.longest_edge, limits.max_edge);
  images_.max_tokens = limits.max_tokens;
}

Sample Processor::process(Conversation conversation, Ending ending, int64_t image_tokens) const {
  ImageProcessorConfig settings = images_;
  if (image_tokens > 0 && (settings.max_tokens == 0 || image_tokens < settings.max_tokens)) {
    settings.max_tokens = image_tokens;
  }
  for (Message& message : conversation.messages) {
    for (Part& part : message.parts) {
      if (part.kind != Part::Kind::kImage) continue;
      if (!no_pictures_.empty()) throw UserError(no_pictures_);
      ImageRef& image = part.image;
      image.decoded = image.bytes
                          ? decode_image(std::as_bytes(std::span(*image.bytes)), image.source)
                          : load_image(image.source);
      image.height = image.decoded.size(1);
      image.width = image.decoded.size(2);
      const ImageGrid grid = image_grid(image.height, image.width, settings);
      image.rows = grid.rows;
      image.cols = grid.cols;
    }
  }
  const EncodedChat chat = encoder_.encode(std::move(conversation), ending);
  Sample sample{.ids = chat.ids, .labels = next_token_labels(chat), .images_CHW = {}};
  // The encoder may move pictures, so they are taken in the order in which their ids stand.
  for (const EncodedChat::Image& image : chat.images) {
    sample.images_CHW.push_back(image_pixels(image.ref.decoded, settings));
    sample.image_spans.emplace_back(image.begin, image.end);
  }
  return sample;
}

}  // namespace trestle
