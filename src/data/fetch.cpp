#include "data/fetch.h"

#include <array>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/http.h"

namespace trestle {

namespace {

/// Long enough to recognise a source in an error line, whatever is inside a data: URI.
std::string shortened(std::string_view source) {
  constexpr size_t kShown = 200;
  if (source.size() <= kShown) return std::string(source);
  return fmt::format("{}... ({} characters)", source.substr(0, kShown), source.size());
}

bool has_prefix(std::string_view text, std::string_view lower_case) {
  if (text.size() < lower_case.size()) return false;
  for (size_t i = 0; i < lower_case.size(); ++i) {
    const char c = text[i];
    if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != lower_case[i]) return false;
  }
  return true;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// RFC 4648 with line breaks allowed; `limit` is on the decoded size.
std::string decode_base64(std::string_view text, std::string_view name, uint64_t limit) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static const std::array<int8_t, 256> values = [&] {
    std::array<int8_t, 256> table;
    table.fill(-1);
    for (size_t i = 0; i < kAlphabet.size(); ++i) {
      table[static_cast<uint8_t>(kAlphabet[i])] = static_cast<int8_t>(i);
    }
    return table;
  }();
  if (text.size() / 4 * 3 > limit) {
    user_error("{}: about {} bytes, over the limit of {}", name, text.size() / 4 * 3, limit);
  }
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 3);
  uint32_t group = 0;
  int bits = 0;
  size_t digits = 0, padding = 0;
  for (const char c : text) {
    if (c == '\r' || c == '\n' || c == ' ' || c == '\t') continue;
    if (c == '=') {
      ++padding;
      continue;
    }
    const int8_t value = values[static_cast<uint8_t>(c)];
    if (value < 0 || padding > 0) user_error("{}: the base64 part is damaged", name);
    ++digits;
    group = group << 6 | static_cast<uint32_t>(value);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes.push_back(static_cast<char>(group >> bits & 0xff));
    }
  }
  if (digits % 4 == 1 || padding > 2 || (padding > 0 && (digits + padding) % 4 != 0)) {
    user_error("{}: the base64 part is truncated", name);
  }
  return bytes;
}

std::string decode_data_uri(std::string_view source, std::string_view name, uint64_t limit) {
  constexpr std::string_view kEncoding = ";base64";
  const size_t comma = source.find(',');
  if (!has_prefix(source, "data:image/") || comma == source.npos ||
      !source.substr(0, comma).ends_with(kEncoding)) {
    user_error("{}: a data: URI must read data:image/...;base64,...", name);
  }
  return decode_base64(source.substr(comma + 1), name, limit);
}

}  // namespace

std::string fetch_url(const std::string& url, const FetchLimits& limits) {
  HttpResponse response = HttpClient().send({.url = url,
                                             .max_bytes = limits.max_bytes,
                                             .max_redirects = limits.max_redirects,
                                             .connect_timeout = limits.connect_timeout,
                                             .timeout = limits.timeout});
  const std::string name = shortened(url);
  switch (response.fault) {
    case HttpFault::kNone:
      break;
    case HttpFault::kTooLarge:
      user_error("{}: the body is over the limit of {} bytes", name, limits.max_bytes);
    case HttpFault::kTooManyRedirects:
      user_error("{}: {}", name, response.reason);
    default:
      user_error("{}: cannot be fetched: {}", name, response.reason);
  }
  if (response.status != 200) {
    user_error("{}: HTTP status {} instead of 200", name, response.status);
  }
  return std::move(response.body);
}

at::Tensor load_image(const std::string& source, const ImageOptions& options,
                      const FetchLimits& limits) {
  if (has_prefix(source, "http://") || has_prefix(source, "https://")) {
    return decode_image(bytes_of(fetch_url(source, limits)), shortened(source), options);
  }
  if (has_prefix(source, "data:")) {
    constexpr size_t kShown = 40;
    const std::string name =
        fmt::format("{}... ({} characters)", source.substr(0, kShown), source.size());
    return decode_image(bytes_of(decode_data_uri(source, name, limits.max_bytes)), name, options);
  }
  if (source.find("://") != source.npos) {
    user_error("{}: only http:// and https:// are fetched", shortened(source));
  }
  const MappedFile file(source);
  return decode_image(file.bytes(), source, options);
}

}  // namespace trestle
