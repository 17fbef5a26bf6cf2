#include "data/fetch.h"

#include <curl/curl.h>

#include <array>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

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

struct Body {
  std::string bytes;
  uint64_t max_bytes;
  bool too_large = false;
};

size_t receive(char* data, size_t unit, size_t count, void* user) {
  auto* body = static_cast<Body*>(user);
  const size_t size = unit * count;
  if (size > body->max_bytes - body->bytes.size()) {
    body->too_large = true;
    return 0;  // tells libcurl to stop
  }
  try {
    body->bytes.append(data, size);
  } catch (const std::bad_alloc&) {
    return 0;
  }
  return size;
}

void allow_only_http(CURL* curl) {
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
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
  static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> handle(curl_easy_init(),
                                                                   curl_easy_cleanup);
  CURL* curl = handle.get();
  if (ready != CURLE_OK || curl == nullptr) machine_error("cannot start libcurl");
  const std::string name = shortened(url);

  Body body{.bytes = {}, .max_bytes = limits.max_bytes};
  std::array<char, CURL_ERROR_SIZE> reason{};
  allow_only_http(curl);
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, limits.max_redirects);
  // Honours an announced size at once; receive() counts what really comes.
  curl_easy_setopt(curl, CURLOPT_MAXFILESIZE_LARGE, static_cast<curl_off_t>(limits.max_bytes));
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(limits.connect_timeout.count()));
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(limits.timeout.count()));
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);  // data loaders call from several threads
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "trestle");
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason.data());

  const CURLcode result = curl_easy_perform(curl);
  if (body.too_large || result == CURLE_FILESIZE_EXCEEDED) {
    user_error("{}: the body is over the limit of {} bytes", name, limits.max_bytes);
  }
  if (result == CURLE_TOO_MANY_REDIRECTS) {
    user_error("{}: more than {} redirects", name, limits.max_redirects);
  }
  if (result != CURLE_OK) {
    user_error("{}: cannot be fetched: {}", name,
               reason[0] != '\0' ? reason.data() : curl_easy_strerror(result));
  }
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (status != 200) user_error("{}: HTTP status {} instead of 200", name, status);
  return std::move(body.bytes);
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
