// One HTTP or HTTPS exchange over libcurl, its redirects included; what went wrong comes back as a
// value, since callers differ in what they make of it. Called by the fetching of pictures and by
// the Hub client.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace trestle {

struct HttpRequest {
  std::string url;
  /// HEAD instead of GET.
  bool head = false;
  /// Goes to the origin of `url` (scheme, host and port) and never to another that a redirect
  /// names.
  std::string bearer_token = {};
  /// Bytes of the body before it are not asked for. The server may send them all the same (status
  /// 200 instead of 206).
  uint64_t first_byte = 0;
  /// A longer body ends the exchange.
  uint64_t max_bytes = 64ull << 20;
  long max_redirects = 5;
  /// A redirect to another origin is then the answer and is not followed.
  bool stay_on_origin = false;
  std::chrono::milliseconds connect_timeout{10'000};
  /// For everything, redirects included; 0: no limit.
  std::chrono::milliseconds timeout{0};
  /// Silence that ends the exchange; 0: any.
  std::chrono::seconds stall_timeout{0};
};

enum class HttpFault {
  kNone,
  /// No answer: no such host, connection refused, silence.
  kUnreachable,
  /// No URL, or of another protocol.
  kBadUrl,
  /// The answer ended before its end.
  kBroken,
  kTooLarge,
  kTooManyRedirects,
  /// The sink wanted no more.
  kStopped,
};

struct HttpResponse {
  HttpFault fault = HttpFault::kNone;
  /// Of the fault; one line.
  std::string reason;
  long status = 0;
  /// Of the last answer of a chain, by lower-case name.
  std::map<std::string, std::string, std::less<>> headers;
  /// Where no sink took it.
  std::string body;
  /// Where a redirect that was not followed leads, absolute.
  std::string redirect;

  /// Empty when there is none.
  std::string_view header(std::string_view lower_case_name) const;
  /// Of a header that is a decimal number and nothing else.
  std::optional<uint64_t> header_number(std::string_view lower_case_name) const;
};

/// Takes the next bytes of the last answer's body (never a redirect's); false ends the exchange.
/// `head` has the status and headers. What it throws comes out of send().
using HttpSink = std::function<bool(const HttpResponse& head, std::string_view bytes)>;

/// Keeps its connections open between requests. Not for two threads at once.
class HttpClient {
 public:
  /// Throws MachineError when libcurl does not start.
  HttpClient();
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  HttpResponse send(const HttpRequest& request, const HttpSink& sink = {});

 private:
  std::unique_ptr<void, void (*)(void*)> curl_;
};

/// Whether both URLs have one scheme, host and port.
bool same_origin(const std::string& a, const std::string& b);

/// RFC 3986's unreserved characters as they are, and '/' with `keep_slashes`; others as %XX.
std::string percent_encoded(std::string_view text, bool keep_slashes);

}  // namespace trestle
