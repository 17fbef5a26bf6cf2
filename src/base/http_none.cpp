// In place of http.cpp where libcurl is left out (TRESTLE_HTTP=OFF): a program for machines without
// a network, on which it needs no library of the system's.
#include "base/error.h"
#include "base/http.h"

namespace trestle {

HttpClient::HttpClient() : curl_(nullptr, [](void*) {}) {
  machine_error("this program was built without HTTP (TRESTLE_HTTP=OFF): give paths of files");
}

HttpClient::~HttpClient() = default;

HttpResponse HttpClient::send(const HttpRequest&, const HttpSink&) {
  return {.fault = HttpFault::kUnreachable, .reason = "built without HTTP"};
}

bool same_origin(const std::string&, const std::string&) { return false; }

}  // namespace trestle
