// The Hugging Face Hub over HTTP: what a revision holds, what a file is, and its bytes into the
// cache. Called by hub.cpp.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>

#include "base/error.h"
#include "base/http.h"
#include "base/progress.h"
#include "hub/cache.h"
#include "hub/files.h"

namespace trestle {

/// huggingface_hub's environment.
struct HubSettings {
  /// HF_ENDPOINT, without a slash at its end.
  std::string endpoint;
  /// HF_TOKEN, or else what stands in HF_TOKEN_PATH or HF_HOME/token; may be empty.
  std::string token;
  /// HF_HUB_CACHE, or HF_HOME/hub.
  std::filesystem::path cache;
  /// HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE; of data sets HF_DATASETS_OFFLINE too.
  bool offline = false, data_offline = false;
  /// HF_HUB_DOWNLOAD_TIMEOUT: silence of the server that counts as a failure.
  std::chrono::seconds timeout{10};

  /// Throws UserError for values that cannot be used.
  static HubSettings from_environment();
};

/// The repository is there but not the revision: a cached copy of it would be a mistake.
class NoSuchRevision : public UserError {
 public:
  using UserError::UserError;
};

struct HubRevision {
  std::string commit;
  /// Of its files; those that are no is_hub_file are left out.
  std::set<std::string> names;
};

/// A file at a commit as the Hub describes it; all of it checked.
struct HubFile {
  std::string name;
  /// Forty or sixty-four lower-case hex digits, see IncompleteBlob.
  std::string etag;
  uint64_t size = 0;
};

/// One connection. Errors are sentences without the repository's name: UserError where the Hub
/// refuses (a token, a name), MachineError where it or the network fails or lies. Nothing that the
/// server says is used as a path or a size unchecked.
class HubClient {
 public:
  /// `stop` set by another thread ends a transfer early; what came is kept.
  HubClient(const HubSettings& settings, HubName name, const std::atomic<bool>& stop);

  /// `patient`: tried again where the fault may pass.
  HubRevision revision(bool patient);
  HubFile describe(const std::string& commit, const std::string& file);
  /// Until `blob` is whole or the stop is set. Asks for what is missing only, again after a broken
  /// connection. The checksum is not looked at.
  void download(const std::string& commit, const HubFile& file, IncompleteBlob& blob,
                Progress& progress);
  bool stopped() const { return stop_; }

 private:
  HttpRequest request(const std::string& path) const;
  HttpRequest request_of(const std::string& commit, const std::string& file) const;
  HttpResponse send_patiently(const HttpRequest& request, int attempts);
  void pause(int failures) const;
  /// `file` is empty where the revision was asked for.
  [[noreturn]] void refuse(const HttpResponse& response, const std::string& file) const;

  const HubSettings& settings_;
  const HubName name_;
  const std::atomic<bool>& stop_;
  HttpClient http_;
};

}  // namespace trestle
