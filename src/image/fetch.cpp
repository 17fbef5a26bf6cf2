#include "image/fetch.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <string_view>

#include "base/base64.h"
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

/// With line breaks in it, and without the '=' at its end too; `limit` is on the decoded size.
std::string decode_loose_base64(std::string_view text, std::string_view name, uint64_t limit) {
  if (text.size() / 4 * 3 > limit) {
    user_error("{}: about {} bytes, over the limit of {}", name, text.size() / 4 * 3, limit);
  }
  std::string digits;
  digits.reserve(text.size() + 3);
  std::ranges::copy_if(text, std::back_inserter(digits),
                       [](char c) { return c != '\r' && c != '\n' && c != ' ' && c != '\t'; });
  if (!digits.ends_with('=')) digits.resize((digits.size() + 3) / 4 * 4, '=');
  std::optional<std::string> bytes = decode_base64(digits);
  if (!bytes) user_error("{}: the base64 part is damaged or truncated", name);
  return std::move(*bytes);
}

std::string decode_data_uri(std::string_view source, std::string_view name, uint64_t limit) {
  constexpr std::string_view kEncoding = ";base64";
  const size_t comma = source.find(',');
  if (!has_prefix(source, "data:image/") || comma == source.npos ||
      !source.substr(0, comma).ends_with(kEncoding)) {
    user_error("{}: a data: URI must read data:image/...;base64,...", name);
  }
  return decode_loose_base64(source.substr(comma + 1), name, limit);
}

/// "scheme" of scheme://rest, or nothing: a path may have a colon, and "//" behind it.
std::string_view scheme_of(std::string_view source) {
  const size_t colon = source.find("://");
  constexpr size_t kShortest = 2;  // one letter is a drive's
  if (colon == source.npos || colon < kShortest) return {};
  const std::string_view scheme = source.substr(0, colon);
  const bool is_scheme = std::isalpha(static_cast<unsigned char>(scheme.front())) != 0 &&
                         std::ranges::all_of(scheme, [](unsigned char c) {
                           return std::isalnum(c) != 0 || c == '+' || c == '-' || c == '.';
                         });
  return is_scheme ? scheme : std::string_view();
}

/// %41 -> A; what is no such code stays.
std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '%' && text.size() - i > 2 &&
        std::from_chars(digits, digits + 2, code, 16).ptr == digits + 2) {
      out += static_cast<char>(code);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::optional<std::filesystem::path> path_of_source(const std::string& source,
                                                    const std::filesystem::path& folder) {
  if (has_prefix(source, "data:") || has_prefix(source, "http://") ||
      has_prefix(source, "https://")) {
    return std::nullopt;
  }
  if (has_prefix(source, "file:/")) {
    std::string_view path = std::string_view(source).substr(std::string_view("file:").size());
    if (path.starts_with("//")) path.remove_prefix(2);
    constexpr std::string_view kHere = "localhost";
    if (has_prefix(path, "localhost/")) path.remove_prefix(kHere.size());
    const std::filesystem::path literal = folder / path;
    std::error_code ignored;
    return std::filesystem::exists(literal, ignored) ? literal : folder / percent_decoded(path);
  }
  if (!scheme_of(source).empty()) {
    user_error("{}: only file://, http:// and https:// are read", shortened(source));
  }
  return folder / source;
}

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
  const MappedFile file(*path_of_source(source));
  return decode_image(file.bytes(), shortened(source), options);
}

}  // namespace trestle
