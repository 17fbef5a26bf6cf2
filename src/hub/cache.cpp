#include "hub/cache.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMaxRefBytes = 256;
constexpr size_t kSha256Digits = 64;

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) machine_error("cannot create {}: {}", path.string(), error.message());
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::string folder_name(const std::string& repository, HubKind kind) {
  const size_t slash = repository.find('/');
  return fmt::format("{}--{}--{}", kind == HubKind::kModel ? "models" : "datasets",
                     repository.substr(0, slash), repository.substr(slash + 1));
}

// Replaces what stands there; a link that leads nowhere may.
void make_link(const fs::path& target, const fs::path& link) {
  const fs::path temporary = link.string() + fmt::format(".tmp-{}", ::getpid());
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error) {
    machine_error("cannot link {} to {}: {}; set HF_HUB_CACHE to a disk that has symbolic links",
                  link.string(), target.string(), error.message());
  }
}

}  // namespace

FileLock::FileLock(const fs::path& path, std::string_view what) {
  make_directories(path.parent_path());
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
  if (fd_ < 0) machine_error("cannot write {}: {}", path.string(), std::strerror(errno));
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  fmt::print(stderr, "waiting for another process that downloads {}\n", what);
  while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
  }
}

FileLock::~FileLock() { ::close(fd_); }

IncompleteBlob::IncompleteBlob(const fs::path& blob, const std::string& etag, uint64_t size)
    : blob_(blob), path_(blob.string() + ".incomplete"), etag_(etag), whole_(size) {
  make_directories(blob_.parent_path());
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(errno);
  try {
    hash_existing();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

IncompleteBlob::~IncompleteBlob() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (size_ == 0) ::unlink(path_.c_str());
}

void IncompleteBlob::fail(int error) const {
  machine_error("cannot write {}: {}", path_.string(), std::strerror(error));
}

void IncompleteBlob::hash_existing() {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail(errno);
  if (static_cast<uint64_t>(info.st_size) > whole_) return restart();
  reset_digest();
  constexpr size_t kPiece = 4 << 20;
  std::string piece(kPiece, '\0');
  for (ssize_t n = 1; n > 0;) {
    n = ::pread(fd_, piece.data(), piece.size(), static_cast<off_t>(size_));
    if (n < 0) fail(errno);
    digest_->update({piece.data(), static_cast<size_t>(n)});
    size_ += static_cast<uint64_t>(n);
  }
}

void IncompleteBlob::append(std::string_view bytes) {
  TORCH_CHECK(bytes.size() <= whole_ - size_, etag_, ": more bytes than it has");
  digest_->update(bytes);
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (n < 0) {
      if (errno == EINTR) continue;
      fail(errno);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
    size_ += static_cast<uint64_t>(n);
  }
}

void IncompleteBlob::restart() {
  if (::ftruncate(fd_, 0) != 0) fail(errno);
  size_ = 0;
  reset_digest();
}

void IncompleteBlob::reset_digest() {
  const bool is_sha256 = etag_.size() == kSha256Digits;
  digest_.emplace(is_sha256 ? Digest::Kind::kSha256 : Digest::Kind::kSha1);
  if (!is_sha256) {  // git hashes a header before the bytes
    digest_->update(fmt::format("blob {}", whole_));
    digest_->update(std::string_view("\0", 1));
  }
}

bool IncompleteBlob::commit() {
  if (size_ != whole_ || digest_->hex() != etag_) {
    restart();
    return false;
  }
  if (::fsync(fd_) != 0) fail(errno);
  if (::close(std::exchange(fd_, -1)) != 0 || ::rename(path_.c_str(), blob_.c_str()) != 0) {
    fail(errno);
  }
  return true;
}

HubCache::HubCache(fs::path root, const std::string& repository, HubKind kind)
    : root_(std::move(root)), folder_(root_ / folder_name(repository, kind)), name_(repository) {}

fs::path HubCache::snapshot(const std::string& commit) const {
  return folder_ / "snapshots" / commit;
}

fs::path HubCache::blob(const std::string& etag) const { return folder_ / "blobs" / etag; }

fs::path HubCache::lock(const std::string& name) const {
  return root_ / ".locks" / folder_.filename() / (name + ".lock");
}

std::optional<std::string> HubCache::commit_of(const std::string& revision) const {
  const fs::path path = folder_ / "refs" / revision;
  if (!is_file(path)) return std::nullopt;
  std::string commit = read_text(path, kMaxRefBytes);
  commit.erase(commit.find_last_not_of(" \r\n") + 1);
  if (!is_commit_hash(commit)) return std::nullopt;
  return commit;
}

void HubCache::set_commit(const std::string& revision, const std::string& commit) const {
  if (revision == commit || commit_of(revision) == commit) return;
  try {
    write_text(folder_ / "refs" / revision, commit);
  } catch (const MachineError&) {
    return;  // a cache that cannot be written is asked again next time
  }
}

std::set<std::string> HubCache::present(const std::string& commit) const {
  std::set<std::string> names;
  std::error_code error;
  const fs::path directory = snapshot(commit);
  for (fs::recursive_directory_iterator each(directory, error), end; !error && each != end;
       each.increment(error)) {
    if (is_file(each->path())) {
      names.insert(each->path().lexically_relative(directory).generic_string());
    }
  }
  return names;
}

std::optional<std::set<std::string>> HubCache::listed(const std::string& commit) const {
  const fs::path path = folder_ / "trees" / (commit + ".json");
  if (!is_file(path)) return std::nullopt;
  try {
    const Json tree = read_json(path);
    constexpr int kKnownVersion = 1;
    if (tree.at("format_version") != kKnownVersion) return std::nullopt;
    std::set<std::string> names;
    for (const auto& [name, file] : tree.at("files").items()) names.insert(name);
    return names;
  } catch (const UserError&) {
    return std::nullopt;  // only a convenience of that library; a damaged one is as none
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

void HubCache::link(const std::string& commit,
                    const std::map<std::string, std::string>& etags) const {
  if (etags.empty()) return;
  const FileLock guard(lock(commit), name_);
  const fs::path directory = snapshot(commit);
  const auto link_into = [&](const fs::path& folder) {
    for (const auto& [name, etag] : etags) {
      fs::path up = "../..";
      for (const char c : name) {
        if (c == '/') up /= "..";
      }
      make_directories((folder / name).parent_path());
      make_link(up / "blobs" / etag, folder / name);
    }
  };
  std::error_code ignored;
  if (fs::exists(directory, ignored)) return link_into(directory);
  OutputDirectory output(directory);
  link_into(output.path());
  output.commit();
}

}  // namespace trestle
