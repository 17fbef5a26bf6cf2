#include "hub/client.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <thread>

#include "base/file.h"
#include "base/json.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using namespace std::chrono_literals;

constexpr int kAttempts = 5;
constexpr int kListingAttempts = 3;
// Mirrors of the Hub send some requests on to it.
constexpr int kMirrorRedirects = 3;
// A connection that brings as much before it breaks does not count as a failed attempt.
constexpr uint64_t kWorthARetry = 64 << 10;
constexpr uint64_t kMaxListing = 32 << 20;
constexpr size_t kMaxFiles = 100'000;
// The largest file that Hugging Face takes has 500 GB.
constexpr uint64_t kMaxFileSize = 1'000'000'000'000;
constexpr uint64_t kMaxToken = 4096;

std::string variable(const char* name, const std::string& otherwise = {}) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : value;
}

bool is_true(std::string value) {
  for (char& c : value) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

// ~ and ~/x as shells and huggingface_hub have it.
fs::path path_variable(const char* name, const fs::path& otherwise) {
  std::string value = variable(name);
  if (value.empty()) return otherwise;
  if (value == "~" || value.starts_with("~/")) value.replace(0, 1, variable("HOME"));
  return value;
}

std::string read_token(const fs::path& home) {
  std::string token = variable("HF_TOKEN", variable("HUGGING_FACE_HUB_TOKEN"));
  std::string source = "HF_TOKEN";
  if (token.empty()) {
    const fs::path path = path_variable("HF_TOKEN_PATH", home / "token");
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) return {};
    token = read_text(path, kMaxToken);
    source = path.string();
  }
  token.erase(0, token.find_first_not_of(" \t\r\n"));
  token.erase(token.find_last_not_of(" \t\r\n") + 1);
  const auto fits_a_header = [](char c) { return c > ' ' && c < '\x7f'; };
  if (token.size() > kMaxToken || !std::ranges::all_of(token, fits_a_header)) {
    user_error("{} is no Hugging Face token: it has spaces or odd characters", source);
  }
  return token;
}

// Whether the same request may fare better a little later.
bool may_pass(const HttpResponse& response) {
  if (response.fault == HttpFault::kUnreachable || response.fault == HttpFault::kBroken)
    return true;
  constexpr std::array<long, 6> kPassing = {408, 429, 500, 502, 503, 504};
  return response.fault == HttpFault::kNone &&
         std::ranges::find(kPassing, response.status) != kPassing.end();
}

// Quoted, perhaps weak: W/"abc" -> abc.
std::string etag_of(const HttpResponse& response) {
  std::string_view etag = response.header("x-linked-etag");
  if (etag.empty()) etag = response.header("etag");
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') {
    etag = etag.substr(1, etag.size() - 2);
  }
  return std::string(etag);
}

bool is_checksum(std::string_view text) {
  constexpr size_t kSha1 = 40, kSha256 = 64;
  return (text.size() == kSha1 || text.size() == kSha256) &&
         text.find_first_not_of("0123456789abcdef") == text.npos;
}

// What a server says goes into one line of a terminal.
std::string shown(std::string_view text) {
  constexpr size_t kShown = 120;
  std::string line(text.substr(0, kShown));
  std::ranges::replace_if(
      line, [](char c) { return c < ' ' || c > '~'; }, '?');
  return line;
}

// Of addresses of a repository's page and files.
std::string_view page_prefix(HubKind kind) { return kind == HubKind::kModel ? "" : "datasets/"; }

// The announced place and length of what follows must be what was asked for.
void check_lengths(const HttpResponse& head, const HubFile& file, uint64_t first_byte) {
  const auto length = head.header_number("content-length");
  if (length && *length != file.size - first_byte) {
    machine_error("{}: the server announces {} bytes where {} should follow; it contradicts itself",
                  file.name, *length, file.size - first_byte);
  }
  if (head.status != 206) return;
  const std::string wanted = fmt::format("bytes {}-{}/{}", first_byte, file.size - 1, file.size);
  if (head.header("content-range") != wanted) {
    machine_error("{}: the server sends '{}' where '{}' was asked for", file.name,
                  shown(head.header("content-range")), wanted);
  }
}

}  // namespace

HubSettings HubSettings::from_environment() {
  const fs::path home = path_variable(
      "HF_HOME",
      path_variable("XDG_CACHE_HOME", path_variable("HOME", "") / ".cache") / "huggingface");
  HubSettings settings;
  settings.endpoint = variable("HF_ENDPOINT", "https://huggingface.co");
  settings.endpoint.erase(settings.endpoint.find_last_not_of('/') + 1);
  if (!settings.endpoint.starts_with("http://") && !settings.endpoint.starts_with("https://")) {
    user_error("HF_ENDPOINT={} is no address; it begins with https:// or http://",
               settings.endpoint);
  }
  settings.token = read_token(home);
  settings.cache =
      path_variable("HF_HUB_CACHE", path_variable("HUGGINGFACE_HUB_CACHE", home / "hub"));
  settings.offline = is_true(variable("HF_HUB_OFFLINE", variable("TRANSFORMERS_OFFLINE")));
  settings.data_offline = settings.offline || is_true(variable("HF_DATASETS_OFFLINE"));
  if (const std::string text = variable("HF_HUB_DOWNLOAD_TIMEOUT"); !text.empty()) {
    const long seconds = std::strtol(text.c_str(), nullptr, 10);
    if (seconds < 1) user_error("HF_HUB_DOWNLOAD_TIMEOUT={} is no number of seconds", text);
    settings.timeout = std::chrono::seconds(seconds);
  }
  return settings;
}

HubClient::HubClient(const HubSettings& settings, HubName name, const std::atomic<bool>& stop)
    : settings_(settings), name_(std::move(name)), stop_(stop) {}

HttpRequest HubClient::request(const std::string& path) const {
  return {.url = settings_.endpoint + path,
          .bearer_token = settings_.token,
          .connect_timeout = settings_.timeout,
          .stall_timeout = settings_.timeout};
}

HttpRequest HubClient::request_of(const std::string& commit, const std::string& file) const {
  return request(fmt::format("/{}{}/resolve/{}/{}", page_prefix(name_.kind), name_.repository,
                             commit, percent_encoded(file, true)));
}

// A little longer each time.
void HubClient::pause(int failures) const {
  const auto until = std::chrono::steady_clock::now() + 125ms * (1 << failures);
  while (!stop_ && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(25ms);
}

HttpResponse HubClient::send_patiently(const HttpRequest& request, int attempts) {
  for (int failures = 1;; ++failures) {
    HttpResponse response = http_.send(request);
    if (!may_pass(response) || failures == attempts) return response;
    pause(failures);
  }
}

void HubClient::refuse(const HttpResponse& response, const std::string& file) const {
  const std::string& repository = name_.repository;
  const std::string& endpoint = settings_.endpoint;
  const std::string what = file.empty() ? "its list of files" : file;
  const std::string_view code = response.header("x-error-code");
  const std::string message = shown(response.header("x-error-message"));
  switch (response.fault) {
    case HttpFault::kNone:
      break;
    case HttpFault::kUnreachable:
      machine_error("{} cannot be reached: {}", endpoint, response.reason);
    case HttpFault::kTooLarge:
      machine_error("{}: what {} sends is longer than it can be", what, endpoint);
    default:
      machine_error("{}: {} gives no whole answer: {}", what, endpoint, response.reason);
  }
  if (code == "RevisionNotFound") {
    throw NoSuchRevision(fmt::format("{} has no revision {}", repository, name_.revision));
  }
  if (code == "GatedRepo") {
    user_error(
        "{} is gated: accept its terms at {}/{}{} and set HF_TOKEN to a token of that account",
        repository, endpoint, page_prefix(name_.kind), repository);
  }
  if (code == "EntryNotFound" || (response.status == 404 && !file.empty())) {
    user_error("{} has no file {} at revision {}", repository, file, name_.revision);
  }
  const bool bad_token = message == "Invalid credentials in Authorization header";
  if (response.status == 401 && (bad_token || (!settings_.token.empty() && code.empty()))) {
    user_error("{} refuses the token (status 401); renew HF_TOKEN or the file HF_HOME/token",
               endpoint);
  }
  if (response.status == 401 || response.status == 404) {
    // The Hub says 401 of what is private and of what is not there alike.
    user_error("{} has no {} {}{} (status {})", endpoint,
               name_.kind == HubKind::kModel ? "repository" : "data set", repository,
               settings_.token.empty() ? ", or it is private and needs HF_TOKEN"
                                       : " that the token may read",
               response.status);
  }
  if (response.status == 403) {
    user_error("{} forbids {} (status 403): {}", endpoint, repository,
               message.empty() ? "the token lacks the permission" : message);
  }
  machine_error("{}: {} answers with status {}", what, endpoint, response.status);
}

HubRevision HubClient::revision(bool patient) {
  HttpRequest ask = request(fmt::format("/api/{}/{}/revision/{}",
                                        name_.kind == HubKind::kModel ? "models" : "datasets",
                                        name_.repository, percent_encoded(name_.revision, false)));
  ask.max_bytes = kMaxListing;
  const HttpResponse response = send_patiently(ask, patient ? kListingAttempts : 1);
  if (response.fault != HttpFault::kNone || response.status != 200) refuse(response, "");
  HubRevision result;
  const auto take = [&](const Json& answer) {
    result.commit = answer.at("sha").get<std::string>();
    const Json& siblings = answer.at("siblings");
    if (!is_commit_hash(result.commit) || !siblings.is_array() || siblings.size() > kMaxFiles) {
      return false;
    }
    for (const Json& each : siblings) {
      const auto name = each.at("rfilename").get<std::string>();
      if (is_hub_file(name)) result.names.insert(name);
    }
    return true;
  };
  std::string reason = "no commit or no list of files in it";
  try {
    if (take(parse_json(response.body, "its answer"))) return result;
  } catch (const UserError& error) {
    reason = error.what();
  } catch (const Json::exception&) {
    reason = "its JSON is of another shape";
  }
  machine_error("{} does not answer as a Hub does ({}); is HF_ENDPOINT one?", settings_.endpoint,
                shown(reason));
}

HubFile HubClient::describe(const std::string& commit, const std::string& file) {
  HttpRequest ask = request_of(commit, file);
  ask.head = true;
  // A redirect to where the bytes lie carries the description of the file already.
  ask.stay_on_origin = true;
  HttpResponse response = send_patiently(ask, kAttempts);
  for (int i = 0; i < kMirrorRedirects && !response.redirect.empty() &&
                  response.header("x-repo-commit").empty();
       ++i) {
    ask.url = response.redirect;
    ask.bearer_token.clear();
    response = send_patiently(ask, kAttempts);
  }
  const bool redirect = !response.redirect.empty();
  if (response.fault != HttpFault::kNone || (response.status != 200 && !redirect)) {
    refuse(response, file);
  }
  if (response.header("x-repo-commit") != commit) {
    machine_error("{}: {} answers for commit '{}' instead of {}; is HF_ENDPOINT a Hub?", file,
                  settings_.endpoint, shown(response.header("x-repo-commit")), commit);
  }
  HubFile described{.name = file, .etag = etag_of(response)};
  if (!is_checksum(described.etag)) {
    machine_error("{}: its etag '{}' is neither a SHA-256 nor a git hash; is HF_ENDPOINT a Hub?",
                  file, shown(described.etag));
  }
  auto size = response.header_number("x-linked-size");
  if (!size && !redirect) size = response.header_number("content-length");
  if (!size || *size > kMaxFileSize) {
    machine_error("{}: {} does not say how long it is (x-linked-size '{}', content-length '{}')",
                  file, settings_.endpoint, shown(response.header("x-linked-size")),
                  shown(response.header("content-length")));
  }
  described.size = *size;
  return described;
}

void HubClient::download(const std::string& commit, const HubFile& file, IncompleteBlob& blob,
                         Progress& progress) {
  // Asked anew each time: the address that a redirect leads to may have expired meanwhile.
  HttpRequest ask = request_of(commit, file.name);
  ask.max_bytes = file.size;
  const auto restart = [&] {
    progress.add(-static_cast<int64_t>(blob.size()));
    blob.restart();
  };
  for (int failures = 0; blob.size() < file.size;) {
    const uint64_t before = blob.size();
    ask.first_byte = before;
    bool checked = false;
    const HttpResponse response =
        http_.send(ask, [&](const HttpResponse& head, std::string_view bytes) {
          if (stop_) return false;
          if (head.status != 200 && head.status != 206) return true;  // a page about an error
          if (!checked && head.status == 200 && blob.size() > 0) restart();
          if (!checked) check_lengths(head, file, blob.size());
          checked = true;
          if (bytes.size() > file.size - blob.size()) {
            machine_error("{}: the server sends more than its {} bytes", file.name, file.size);
          }
          blob.append(bytes);
          progress.add(static_cast<int64_t>(bytes.size()));
          return true;
        });
    if (stop_ || blob.size() == file.size) return;
    const bool sent =
        response.fault == HttpFault::kNone && (response.status == 200 || response.status == 206);
    if (sent && blob.size() == before) {
      check_lengths(response, file, before);  // the sink saw no byte
    }
    if (response.status == 416) restart();
    if (!may_pass(response) && !sent && response.status != 416) refuse(response, file.name);
    failures = blob.size() >= before + kWorthARetry ? 0 : failures + 1;
    if (failures == kAttempts) {
      machine_error(
          "{}: {} of {} bytes came, then {} attempts failed: {}; run it again to go on", file.name,
          blob.size(), file.size, failures,
          response.reason.empty() ? fmt::format("status {}", response.status) : response.reason);
    }
    pause(failures);
  }
}

}  // namespace trestle
