#include "hub/downloads.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/progress.h"
#include "base/thread.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr size_t kConnections = 4;

uint64_t size_of(const fs::path& path) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  return error ? 0 : size;
}

bool is_there(const fs::path& blob, const HubFile& file) {
  std::error_code ignored;
  return fs::is_regular_file(blob, ignored) && size_of(blob) == file.size;
}

}  // namespace

// Blobs only: a snapshot shows nothing before all of it is there.
void HubDownloads::get(const std::string& commit, const std::vector<std::string>& names,
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

void HubDownloads::get_blobs(const std::string& commit, std::vector<HubFile> files) const {
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

void HubDownloads::get_blob(HubClient& client, const std::string& commit, const HubFile& file,
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

void HubDownloads::require_space(uint64_t bytes) const {
  std::error_code error;
  fs::create_directories(settings_.cache, error);
  const fs::space_info space = fs::space(settings_.cache, error);
  if (error || space.available >= bytes) return;
  machine_error("{} to download and {} free in {}; make room or set HF_HUB_CACHE",
                readable_bytes(bytes), readable_bytes(space.available), settings_.cache.string());
}

// The first fault stops the others, which keep what they have.
void HubDownloads::in_parallel(size_t count,
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

}  // namespace trestle
