// The part of huggingface_hub's cache that holds one repository, as that library lays it out, so
// that either finds what the other has downloaded. Called by hub.cpp and the Hub client.
//
//   CACHE/models--ORG--NAME/refs/REVISION             a commit (datasets-- of a data set)
//                          /blobs/ETAG                the bytes; ETAG.incomplete while they come
//                          /snapshots/COMMIT/FILE     a relative link to a blob
//                          /trees/COMMIT.json         every file of the commit, if that library
//                          came
//         /.locks/models--ORG--NAME/ETAG.lock
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/digest.h"
#include "hub/files.h"

namespace trestle {

/// Held while it lives, against other threads and processes; huggingface_hub takes the same ones.
class FileLock {
 public:
  /// Waits, and says so on stderr when it must; `what` is waited for. Throws MachineError.
  FileLock(const std::filesystem::path& path, std::string_view what);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

/// A blob that comes in piece by piece. What came is kept in ETAG.incomplete, also when the process
/// is killed, and the next attempt goes on from there.
class IncompleteBlob {
 public:
  /// `etag` is the SHA-256 of the bytes, or git's SHA-1 of them as a blob of `size` bytes. Reads
  /// what an earlier attempt left. Throws MachineError when the disk refuses.
  IncompleteBlob(const std::filesystem::path& blob, const std::string& etag, uint64_t size);
  ~IncompleteBlob();
  IncompleteBlob(const IncompleteBlob&) = delete;
  IncompleteBlob& operator=(const IncompleteBlob&) = delete;

  uint64_t size() const { return size_; }
  uint64_t whole() const { return whole_; }
  /// Must not pass whole(). Throws MachineError when the disk is full.
  void append(std::string_view bytes);
  /// Drops everything that came.
  void restart();
  /// Publishes the blob if it is whole and its checksum is the etag. Where it is not, drops what
  /// came and returns false.
  bool commit();

 private:
  void hash_existing();
  void reset_digest();
  [[noreturn]] void fail(int error) const;

  std::filesystem::path blob_, path_;
  std::string etag_;
  uint64_t whole_;
  uint64_t size_ = 0;
  int fd_ = -1;
  std::optional<Digest> digest_;
};

class HubCache {
 public:
  /// `root` is HF_HUB_CACHE's directory; it need not exist.
  HubCache(std::filesystem::path root, const std::string& repository,
           HubKind kind = HubKind::kModel);

  std::filesystem::path snapshot(const std::string& commit) const;
  std::filesystem::path blob(const std::string& etag) const;
  /// Of a blob or a snapshot.
  std::filesystem::path lock(const std::string& name) const;
  const std::filesystem::path& root() const { return root_; }

  /// The commit that a branch or tag was at when it was last asked for.
  std::optional<std::string> commit_of(const std::string& revision) const;
  /// Nothing happens when the cache cannot be written: it may be shared and read-only.
  void set_commit(const std::string& revision, const std::string& commit) const;

  /// The files of a commit in the cache, relative to its snapshot.
  std::set<std::string> present(const std::string& commit) const;
  /// The same of the whole commit, if the cache has its listing.
  std::optional<std::set<std::string>> listed(const std::string& commit) const;

  /// Adds files to a snapshot, `etags` by name (is_hub_file). A snapshot that was not there appears
  /// whole.
  void link(const std::string& commit, const std::map<std::string, std::string>& etags) const;

 private:
  std::filesystem::path root_, folder_;
  std::string name_;
};

}  // namespace trestle
