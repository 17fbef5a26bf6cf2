// Base64 (RFC 4648, the standard alphabet, padded). Called by pages with pictures in them and by
// the readers of tekken.json, of data: URIs and of rows with pictures.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// Without the '=' that fills the end.
inline constexpr std::string_view kBase64Alphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(std::string_view bytes);

/// Nothing where `text` is anything but padded base64: a blank or a line end in it too.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace trestle
