#include "base/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <exception>

#include "base/error.h"
#include "base/text.h"

namespace trestle {

namespace {

using Clock = std::chrono::steady_clock;

// More than any server means well with.
constexpr size_t kMaxHeaderBytes = 256 << 10;
// The page that a redirect may carry is dropped, up to here.
constexpr uint64_t kMaxRedirectBody = 1 << 20;

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

// One answer while it comes in.
struct Exchange {
  HttpResponse response;
  const HttpSink& sink;
  uint64_t max_bytes;
  uint64_t body_bytes = 0;
  size_t header_bytes = 0;
  std::chrono::seconds stall_timeout{0};
  Clock::time_point last_byte = Clock::now();
  std::exception_ptr thrown;

  bool is_redirect() const {
    return response.status >= 300 && response.status < 400 && response.headers.contains("location");
  }

  bool is_silent() const {
    return stall_timeout.count() > 0 && Clock::now() - last_byte > stall_timeout;
  }

  bool take_header(std::string_view line) {
    last_byte = Clock::now();
    header_bytes += line.size();
    if (header_bytes > kMaxHeaderBytes) return false;
    if (line.starts_with("HTTP/")) {  // a new answer: 100 Continue comes before the real one
      response.headers.clear();
      const size_t space = line.find(' ');
      response.status = 0;
      if (space != line.npos) {
        std::from_chars(line.data() + space + 1, line.data() + line.size(), response.status);
      }
      return true;
    }
    const size_t colon = line.find(':');
    if (colon == line.npos) return true;
    response.headers.insert_or_assign(lower_case(trimmed(line.substr(0, colon))),
                                      trimmed(line.substr(colon + 1)));
    return true;
  }

  bool take_body(std::string_view bytes) {
    last_byte = Clock::now();
    body_bytes += bytes.size();
    if (is_redirect()) return body_bytes <= kMaxRedirectBody;
    if (body_bytes > max_bytes) {
      response.fault = HttpFault::kTooLarge;
      return false;
    }
    if (!sink) {
      response.body.append(bytes);
      return true;
    }
    if (sink(response, bytes)) return true;
    response.fault = HttpFault::kStopped;
    return false;
  }
};

constexpr size_t kRefused = SIZE_MAX;  // any number but the size stops libcurl

// libcurl is C: no exception may pass through it.
template <bool (Exchange::*take)(std::string_view)>
size_t receive(char* data, size_t unit, size_t count, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  const size_t size = unit * count;
  try {
    return (exchange->*take)({data, size}) ? size : kRefused;
  } catch (...) {
    exchange->thrown = std::current_exception();
    return kRefused;
  }
}

// Called about once a second. libcurl's own limit averages over several.
int watch(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Exchange*>(user)->is_silent() ? 1 : 0;
}

void allow_only_http(CURL* curl) {
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
}

using HeaderList = std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)>;

HeaderList headers_of(const HttpRequest& request, bool with_token) {
  // A compressed answer has neither the length nor the bytes that the caller counts on.
  HeaderList list(curl_slist_append(nullptr, "Accept-Encoding: identity"), curl_slist_free_all);
  if (with_token && !request.bearer_token.empty()) {
    const std::string line = "Authorization: Bearer " + request.bearer_token;
    list.reset(curl_slist_append(list.release(), line.c_str()));
  }
  return list;
}

void set_limits(CURL* curl, const HttpRequest& request, Clock::time_point start) {
  if (!request.head) {
    // Honours an announced size at once; take_body() counts what really comes.
    curl_easy_setopt(curl, CURLOPT_MAXFILESIZE_LARGE,
                     static_cast<curl_off_t>(
                         std::clamp<uint64_t>(request.max_bytes, kMaxRedirectBody, INT64_MAX)));
  }
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(request.connect_timeout.count()));
  if (request.timeout.count() > 0) {
    const auto left = request.timeout -
                      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, std::max<long>(left.count(), 1));
  }
}

// One answer, whatever it is; its fault is settled.
HttpResponse exchange_once(CURL* curl, const HttpRequest& request, const std::string& url,
                           const HttpSink& sink, Clock::time_point start) {
  Exchange exchange{.response = {},
                    .sink = sink,
                    .max_bytes = request.max_bytes,
                    .stall_timeout = request.stall_timeout,
                    .thrown = {}};
  std::array<char, CURL_ERROR_SIZE> reason{};
  const HeaderList headers = headers_of(request, same_origin(url, request.url));
  curl_easy_reset(curl);
  allow_only_http(curl);
  set_limits(curl, request, start);
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.head ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  const std::string range = fmt::format("{}-", request.first_byte);
  if (request.first_byte > 0) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);  // several threads call
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "trestle");
  if (const char* authorities = std::getenv("SSL_CERT_FILE")) {
    curl_easy_setopt(curl, CURLOPT_CAINFO, authorities);
  }
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, receive<&Exchange::take_header>);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive<&Exchange::take_body>);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, watch);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason.data());

  const CURLcode result = curl_easy_perform(curl);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, nullptr);  // the handle outlives it
  if (exchange.thrown) std::rethrow_exception(exchange.thrown);
  HttpResponse& response = exchange.response;
  if (result == CURLE_FILESIZE_EXCEEDED) response.fault = HttpFault::kTooLarge;
  if (result == CURLE_UNSUPPORTED_PROTOCOL || result == CURLE_URL_MALFORMAT) {
    response.fault = HttpFault::kBadUrl;
  }
  if (result != CURLE_OK) {
    response.reason = reason[0] != '\0' ? reason.data() : curl_easy_strerror(result);
    if (result == CURLE_ABORTED_BY_CALLBACK) {
      response.reason = fmt::format("silence for {} s", request.stall_timeout.count());
    }
    if (response.fault == HttpFault::kNone) {
      response.fault = response.status == 0 ? HttpFault::kUnreachable : HttpFault::kBroken;
    }
  }
  return std::move(response);
}

using Url = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

std::string part_of(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return {};
  std::string copy = lower_case(text);
  curl_free(text);
  return copy;
}

}  // namespace

HttpClient::HttpClient() : curl_(nullptr, [](void* curl) { curl_easy_cleanup(curl); }) {
  static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
  curl_.reset(curl_easy_init());
  if (ready != CURLE_OK || curl_ == nullptr) machine_error("cannot start libcurl");
}

HttpClient::~HttpClient() = default;

HttpResponse HttpClient::send(const HttpRequest& request, const HttpSink& sink) {
  const auto start = Clock::now();
  std::string url = request.url;
  for (long redirects = 0;; ++redirects) {
    HttpResponse response = exchange_once(curl_.get(), request, url, sink, start);
    if (response.fault != HttpFault::kNone) return response;
    // Absolute, whatever Location says; none where the answer is no redirect.
    const char* next = nullptr;
    curl_easy_getinfo(curl_.get(), CURLINFO_REDIRECT_URL, &next);
    if (next == nullptr) return response;
    if (request.stay_on_origin && !same_origin(next, request.url)) {
      response.redirect = next;
      return response;
    }
    if (redirects == request.max_redirects) {
      response.fault = HttpFault::kTooManyRedirects;
      response.reason = fmt::format("more than {} redirects", request.max_redirects);
      return response;
    }
    url = next;
  }
}

bool same_origin(const std::string& a, const std::string& b) {
  const Url first(curl_url(), curl_url_cleanup), second(curl_url(), curl_url_cleanup);
  if (curl_url_set(first.get(), CURLUPART_URL, a.c_str(), 0) != CURLUE_OK ||
      curl_url_set(second.get(), CURLUPART_URL, b.c_str(), 0) != CURLUE_OK) {
    return false;
  }
  for (const CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    if (part_of(first.get(), part) != part_of(second.get(), part)) return false;
  }
  return true;
}

}  // namespace trestle
