#include "hub/hub.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/thread.h"
#include "hub/cache.h"
#include "hub/client.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr size_t kConnections = 4;

using Names = std::set<std::string>;

bool includes(const Names& all, const Names& some) { return std::ranges::includes(all, some); }

std::vector<std::string> without(const Names& all, const Names& some) {
  std::vector<std::string> rest;
  std::ranges::set_difference(all, some, std::back_inserter(rest));
  return rest;
}

uint64_t size_of(const fs::path& path) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  return error ? 0 : size;
}

bool is_there(const fs::path& blob, const HubFile& file) {
  std::error_code ignored;
  return fs::is_regular_file(blob, ignored) && size_of(blob) == file.size;
}

/// One repository, asked for once.
class Resolution {
 public:
  Resolution(HubName name, HubFiles wanted)
      : settings_(HubSettings::from_environment()),
        name_(std::move(name)),
        wanted_(wanted),
        cache_(settings_.cache, name_.repository) {}

  fs::path resolve() const;

 private:
  bool has_all(const Names& names, const std::string& commit) const;
  bool is_surely_whole(const std::string& commit) const;
  void fetch(const HubRevision& revision) const;
  void get(const std::string& commit, const std::vector<std::string>& names,
           std::map<std::string, std::string>& etags) const;
  void get_blobs(const std::string& commit, std::vector<HubFile> files) const;
  void get_blob(HubClient& client, const std::string& commit, const HubFile& file,
                Progress& progress) const;
  void require_space(uint64_t bytes) const;
  void in_parallel(size_t count, const std::function<void(HubClient&, size_t)>& job) const;

  const HubSettings settings_;
  const HubName name_;
  const HubFiles wanted_;
  const HubCache cache_;
};

fs::path Resolution::resolve() const {
  const bool is_commit = is_commit_hash(name_.revision);
  const auto known = is_commit ? name_.revision : cache_.commit_of(name_.revision);
  const bool usable = known && has_all(cache_.present(*known), *known);
  if (settings_.offline && !usable) {
    user_error("HF_HUB_OFFLINE is set and {} holds {} of {}@{}", settings_.cache.string(),
               known && !cache_.present(*known).empty() ? "only a part" : "nothing",
               name_.repository, name_.revision);
  }
  if (usable && (settings_.offline || (is_commit && is_surely_whole(*known)))) {
    return cache_.snapshot(*known);
  }
  const std::atomic<bool> never = false;
  HubRevision revision;
  try {
    revision = HubClient(settings_, name_, never).revision(/*patient=*/!usable);
  } catch (const NoSuchRevision&) {
    throw;
  } catch (const std::runtime_error& error) {
    if (!usable) throw;
    fmt::print(stderr, "warning: {}; taking {} as it lies in the cache, commit {}\n", error.what(),
               name_.repository, *known);
    return cache_.snapshot(*known);
  }
  fetch(revision);
  return cache_.snapshot(revision.commit);
}

// Whether the snapshot holds whatever is wanted of `names`.
bool Resolution::has_all(const Names& names, const std::string& commit) const {
  const Names present = cache_.present(commit);
  try {
    const HubPlan plan = plan_files(names, wanted_);
    return includes(present, plan.files) &&
           (plan.index.empty() ||
            includes(present, shard_files(cache_.snapshot(commit) / plan.index)));
  } catch (const UserError&) {
    return false;
  }
}

// Others put single files into a snapshot, and its own files do not tell that the tokenizer, say,
// is missing.
bool Resolution::is_surely_whole(const std::string& commit) const {
  if (const auto listed = cache_.listed(commit)) return has_all(*listed, commit);
  const Names present = cache_.present(commit);
  return present.contains("tokenizer.json") || present.contains("tekken.json") ||
         present.contains("adapter_config.json");
}

void Resolution::fetch(const HubRevision& revision) const {
  const std::string& commit = revision.commit;
  const Names present = cache_.present(commit);
  std::map<std::string, std::string> etags;  // of what is new
  HubPlan plan;
  try {
    plan = plan_files(revision.names, wanted_);
  } catch (const UserError& error) {
    user_error("{} {}", name_.repository, error.what());
  }
  get(commit, without(plan.files, present), etags);
  if (!plan.index.empty()) {
    const auto fresh = etags.find(plan.index);
    const Names shards = shard_files(fresh == etags.end() ? cache_.snapshot(commit) / plan.index
                                                          : cache_.blob(fresh->second));
    if (!includes(revision.names, shards)) {
      user_error("{} does not hold {}, which its {} names", name_.repository,
                 without(shards, revision.names).front(), plan.index);
    }
    get(commit, without(shards, present), etags);
  }
  cache_.link(commit, etags);
  cache_.set_commit(name_.revision, commit);
}

// Blobs only: a snapshot shows nothing before all of it is there.
void Resolution::get(const std::string& commit, const std::vector<std::string>& names,
                     std::map<std::string, std::string>& etags) const {
  std::vector<HubFile> files(names.size());
  in_parallel(names.size(),
              [&](HubClient& client, size_t i) { files[i] = client.describe(commit, names[i]); });
  std::map<std::string, HubFile> missing;  // by etag: two names may share a blob
  for (const HubFile& file : files) {
    etags[file.name] = file.etag;
    if (!is_there(cache_.blob(file.etag), file)) missing.emplace(file.etag, file);
  }
  if (missing.empty()) return;
  std::vector<HubFile> wanted;
  for (auto& [etag, file] : missing) wanted.push_back(std::move(file));
  get_blobs(commit, std::move(wanted));
}

void Resolution::get_blobs(const std::string& commit, std::vector<HubFile> files) const {
  // The largest first, so that it does not run alone at the end.
  std::ranges::sort(files, std::greater(), &HubFile::size);
  uint64_t total = 0, there = 0;
  for (const HubFile& file : files) {
    total += file.size;
    there += std::min(file.size, size_of(cache_.blob(file.etag).string() + ".incomplete"));
  }
  require_space(total - there);
  const auto start = std::chrono::steady_clock::now();
  {
    Progress progress("downloading " + name_.repository, total, there);
    in_parallel(files.size(),
                [&](HubClient& client, size_t i) { get_blob(client, commit, files[i], progress); });
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print(stderr, "downloaded {} of {}, {} in {:.1f} s\n",
             files.size() == 1 ? files.front().name : fmt::format("{} files", files.size()),
             name_.repository, readable_bytes(total - there), seconds.count());
}

void Resolution::get_blob(HubClient& client, const std::string& commit, const HubFile& file,
                          Progress& progress) const {
  const fs::path path = cache_.blob(file.etag);
  const FileLock guard(cache_.lock(file.etag), file.name);
  if (is_there(path, file)) return;  // another process was faster
  IncompleteBlob blob(path, file.etag, file.size);
  for (bool resumed = blob.size() > 0;; resumed = false) {
    client.download(commit, file, blob, progress);
    if (client.stopped() || blob.commit()) return;
    progress.add(-static_cast<int64_t>(file.size));
    if (!resumed) {
      machine_error("{}: the {} bytes that came do not have the checksum {}; they are dropped",
                    file.name, file.size, file.etag);
    }
  }
}

void Resolution::require_space(uint64_t bytes) const {
  std::error_code error;
  fs::create_directories(settings_.cache, error);
  const fs::space_info space = fs::space(settings_.cache, error);
  if (error || space.available >= bytes) return;
  machine_error("{} to download and {} free in {}; make room or set HF_HUB_CACHE",
                readable_bytes(bytes), readable_bytes(space.available), settings_.cache.string());
}

// The first fault stops the others, which keep what they have.
void Resolution::in_parallel(size_t count,
                             const std::function<void(HubClient&, size_t)>& job) const {
  std::atomic<size_t> next = 0;
  std::atomic<bool> stop = false;
  std::exception_ptr first;
  std::mutex mutex;
  const auto work = [&] {
    try {
      HubClient client(settings_, name_, stop);
      for (size_t i = next++; i < count && !stop; i = next++) job(client, i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      stop = true;
    }
  };
  const auto connections = static_cast<int64_t>(std::min(kConnections, count));
  {
    std::vector<std::jthread> threads;  // they join at the end of the block, however it is left
    try {
      while (std::ssize(threads) < connections) {
        threads.push_back(
            start_thread(work, "downloading from the Hub", std::ssize(threads) + 1, connections));
      }
    } catch (...) {
      stop = true;
      throw;
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace

fs::path resolve_model(const std::string& given, std::string_view flag, HubFiles wanted) {
  std::error_code error;
  if (fs::exists(given, error)) return given;
  // It may well be there: nothing to ask the Hub for.
  if (error == std::errc::permission_denied) user_error("{} {}: {}", flag, given, error.message());
  constexpr const char* kMessage = "{} {}: no such directory here, and {}";
  try {
    const auto name = parse_hub_name(given);
    if (!name) return given;
    return Resolution(*name, wanted).resolve();
  } catch (const UserError& error) {
    user_error(kMessage, flag, given, error.what());
  } catch (const MachineError& error) {
    machine_error(kMessage, flag, given, error.what());
  }
}

}  // namespace trestle
