#include "chat/pictures.h"

#include <string_view>

#include "base/base64.h"
#include "base/error.h"
#include "image/fetch.h"

namespace trestle {

namespace {

// Base64 of a JPEG, PNG or WebP without a word around it, as some data sets have it where others
// have a path: the first bytes of these formats, then nothing that base64 has not.
bool is_bare_base64(std::string_view text) {
  constexpr size_t kShortest = 64;  // no picture is smaller; a path may begin with "/9j/" too
  const bool begins =
      text.starts_with("/9j/") || text.starts_with("iVBORw0KGgo") || text.starts_with("UklGR");
  return begins && text.size() >= kShortest &&
         text.substr(0, kShortest).find_first_not_of(kBase64Alphabet) == text.npos;
}

std::string as_data_uri(const std::string& base64) {
  return base64.starts_with("data:") ? base64 : "data:image/any;base64," + base64;
}

ImageRef read_object(const Json& json, OtherKeys others, const std::string& place) {
  check_picture_keys(json, others, place);
  for (const std::string_view key : {"bytes", "base64", "path", "url", "image", "image_url"}) {
    const Json* value = find_said(json, key);
    if (value == nullptr) continue;
    if (key.front() != 'b' || value->is_binary()) return read_picture(*value, others, place);
    if (!value->is_string()) user_error("{}: \"{}\" must be a string", place, key);
    return {.source = as_data_uri(value->get<std::string>())};
  }
  user_error(R"({}: a picture has none of "path", "url", "base64" and "image")", place);
}

}  // namespace

ImageRef read_picture(const Json& json, OtherKeys others, const std::string& place) {
  if (json.is_object()) return read_object(json, others, place);
  ImageRef image;
  if (json.is_string()) {
    image.source = json.get<std::string>();
    if (is_bare_base64(image.source)) image.source = as_data_uri(image.source);
  } else if (json.is_binary()) {
    const Json::binary_t& bytes = json.get_binary();
    image.source = place;
    image.bytes = std::make_shared<const std::string>(bytes.begin(), bytes.end());
  } else {
    user_error("{}: a picture must be a path, a URL, a data: URI or an object that holds one",
               place);
  }
  return image;
}

void find_pictures_in(Conversation& conversation, const std::filesystem::path& folder) {
  for (Message& message : conversation.messages) {
    for (Part& part : message.parts) {
      if (part.kind != Part::Kind::kImage || part.image.bytes || part.image.source.empty())
        continue;
      if (const auto path = path_of_source(part.image.source, folder)) {
        part.image.source = path->string();
      }
    }
  }
}

}  // namespace trestle
