// Files of one commit into the cache, several at a time. Called by hub.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "hub/cache.h"
#include "hub/client.h"

namespace trestle {

class HubDownloads {
 public:
  HubDownloads(const HubSettings& settings, const HubName& name, const HubCache& cache)
      : settings_(settings), name_(name), cache_(cache) {}

  /// Blobs only: a snapshot shows nothing before all of it is there. Adds the etags of `names`.
  /// Throws as HubClient does; what came whole or in part is kept.
  void get(const std::string& commit, const std::vector<std::string>& names,
           std::map<std::string, std::string>& etags) const;

 private:
  void get_blobs(const std::string& commit, std::vector<HubFile> files) const;
  void get_blob(HubClient& client, const std::string& commit, const HubFile& file,
                Progress& progress) const;
  void require_space(uint64_t bytes) const;
  void in_parallel(size_t count, const std::function<void(HubClient&, size_t)>& job) const;

  const HubSettings& settings_;
  const HubName& name_;
  const HubCache& cache_;
};

}  // namespace trestle
