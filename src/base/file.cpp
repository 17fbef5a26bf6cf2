#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/paths.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

std::string reason(int error) { return std::strerror(error); }

// What is being written lies beside its target, so that the rename stays on one file system, as
// ".TARGET.tmp-" and 16 hexadecimal digits.
std::string temporary_prefix(const fs::path& target) {
  return fmt::format(".{}.tmp-", target.filename().string());
}

fs::path beside(const fs::path& target) {
  std::random_device random;
  return target.parent_path() /
         fmt::format("{}{:08x}{:08x}", temporary_prefix(target), random(), random());
}

}  // namespace

// Whoever fills a temporary file or directory holds a lock on it, which the kernel drops when the
// process dies. So one that can be locked is left over. Where the file system has no locks, nothing
// is removed.
void remove_leftovers(const fs::path& target) {
  const std::string prefix = temporary_prefix(target);
  const fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  std::error_code ignored;
  for (fs::directory_iterator each(parent, ignored), end; each != end; each.increment(ignored)) {
    const std::string name = each->path().filename().string();
    if (!name.starts_with(prefix) || name.size() != prefix.size() + 16 ||
        name.find_first_not_of("0123456789abcdef", prefix.size()) != std::string::npos) {
      continue;
    }
    const int fd = ::open(each->path().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      std::error_code error;
      fs::remove_all(each->path(), error);
    }
    ::close(fd);
  }
}

namespace {

// Takes the lock on what was just created; false when another process took it for a leftover first.
bool hold(int fd) {
  if (::flock(fd, LOCK_EX) != 0) return true;
  struct stat info {};
  return ::fstat(fd, &info) == 0 && info.st_nlink > 0;
}

// Creates, opens and locks a temporary beside `target`; -1 with errno where that fails.
int create_beside(const fs::path& target, bool directory, fs::path& temporary) {
  while (true) {
    temporary = beside(target);
    if (directory && ::mkdir(temporary.c_str(), 0777) != 0) return -1;
    const int fd = ::open(
        temporary.c_str(),
        directory ? O_RDONLY | O_DIRECTORY | O_CLOEXEC : O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC,
        0666);
    if (fd >= 0 && hold(fd)) return fd;
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (fd < 0 && !(directory && error == ENOENT)) {
      if (directory) ::rmdir(temporary.c_str());
      errno = error;
      return -1;
    }
  }
}

// Returns the highest directory that it had to create, or an empty path.
fs::path make_parent(const fs::path& path) {
  std::error_code error;
  fs::path created;
  for (fs::path each = path.parent_path(); !each.empty() && !fs::exists(each, error);
       each = each.parent_path()) {
    created = each;
  }
  if (!created.empty()) fs::create_directories(path.parent_path(), error);
  if (error) machine_error("cannot create {}: {}", path.parent_path().string(), error.message());
  return created;
}

// Removes the empty directories from `directory` up to and including `highest`.
void remove_empty(fs::path directory, const fs::path& highest) {
  std::error_code error;
  while (!highest.empty() && fs::remove(directory, error) && directory != highest) {
    directory = directory.parent_path();
  }
}

// A directory's entries reach the disk only by an fsync of the directory.
void sync_directory(const fs::path& path) {
  const fs::path directory = path.empty() ? fs::path(".") : path;
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // it may be written to and not read
  const bool failed = ::fsync(fd) != 0 && (errno == EIO || errno == ENOSPC || errno == EDQUOT);
  const int error = errno;
  ::close(fd);
  if (failed) machine_error("cannot write {} to the disk: {}", directory.string(), reason(error));
}

// The directory that holds `path`, and those that were made for it from `highest` down.
void sync_parents(const fs::path& path, const fs::path& highest) {
  fs::path directory = path.parent_path();
  sync_directory(directory);
  if (highest.empty()) return;
  while (directory != highest) sync_directory(directory = directory.parent_path());
  sync_directory(highest.parent_path());
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  require_regular_file(path);
  // Should it have become a pipe since, this does not wait.
  fd_ = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd_ < 0) user_error("cannot open {}: {}", path.string(), reason(errno));
  struct stat info {};
  if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    user_error("cannot read {}: it is not a regular file", path.string());
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (address == MAP_FAILED) {
    const int error = errno;
    ::close(fd_);
    machine_error("cannot map {} ({} bytes): {}", path.string(), size_, reason(error));
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::copy(std::span<const std::byte> part, std::byte* out) const {
  auto offset = static_cast<off_t>(part.data() - data_);
  for (size_t left = part.size(); left > 0;) {
    const ssize_t n = ::pread(fd_, out, left, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      machine_error("cannot read {} at byte {}: {}", path_.string(), offset,
                    n == 0 ? "it became shorter while it was read" : reason(errno));
    }
    out += n;
    offset += n;
    left -= static_cast<size_t>(n);
  }
}

void MappedFile::release(std::span<const std::byte> part) const {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size()) / page * page;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): it was rounded to pages as a number.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

OutputFile::OutputFile(fs::path path) : path_(std::move(path)) {
  require_replaceable_file(path_);
  std::error_code error;
  // What a link points to is replaced, not the link.
  if (fs::is_symlink(path_, error) && is_there(path_)) path_ = fs::canonical(path_);
  created_ = make_parent(path_);
  remove_leftovers(path_);
  fd_ = create_beside(path_, false, temporary_);
  if (fd_ >= 0) return;
  const int why = errno;
  remove_empty(path_.parent_path(), created_);
  machine_error("cannot write {}: {}", path_.string(), reason(why));
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (committed_) return;
  ::unlink(temporary_.c_str());
  remove_empty(path_.parent_path(), created_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
  write_at(offset_, bytes);
  offset_ += bytes.size();
}

void OutputFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  const uint64_t start = offset;
  const size_t size = bytes.size();
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      machine_error("cannot write {} at byte {}: {}; nothing was left behind", path_.string(),
                    offset, reason(errno));
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  // The disk starts on large blocks at once, so that commit() finds little left to wait for.
  constexpr size_t kLarge = 4 << 20;
  if (size >= kLarge) {
    ::sync_file_range(fd_, static_cast<off_t>(start), static_cast<off_t>(size),
                      SYNC_FILE_RANGE_WRITE);
  }
}

void OutputFile::commit() {
  // Renamed before it is closed: closing drops the lock.
  if (::fsync(fd_) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    machine_error("cannot write {}: {}", path_.string(), reason(errno));
  }
  committed_ = true;
  sync_parents(path_, created_);
}

OutputDirectory::OutputDirectory(fs::path path, bool replace)
    : target_(path.has_filename() ? std::move(path) : path.parent_path()), replace_(replace) {
  if (!replace_ || kind_of(target_) != "a directory") require_replaceable_directory(target_);
  std::error_code error;
  // What a link points to is replaced, not the link.
  if (fs::is_symlink(target_, error) && is_there(target_)) target_ = fs::canonical(target_);
  created_ = make_parent(target_);
  remove_leftovers(target_);
  lock_ = create_beside(target_, true, temporary_);
  if (lock_ >= 0) return;
  const int why = errno;
  remove_empty(target_.parent_path(), created_);
  machine_error("cannot write {}: {}", target_.string(), reason(why));
}

OutputDirectory::~OutputDirectory() {
  if (!committed_) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
    remove_empty(target_.parent_path(), created_);
  }
  ::close(lock_);
}

void OutputDirectory::commit() {
  std::error_code error;
  for (const auto& each : fs::recursive_directory_iterator(temporary_, error)) {
    if (each.is_directory()) sync_directory(each.path());
  }
  sync_directory(temporary_);
  // Over nothing or an empty directory this is one step.
  bool had_target = false;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    if (!replace_ || (errno != ENOTEMPTY && errno != EEXIST)) {
      machine_error("cannot write {}: {}", target_.string(), reason(errno));
    }
    swap_with_target();
    had_target = true;
  }
  committed_ = true;
  sync_parents(target_, created_);
  if (had_target) fs::remove_all(temporary_, error);
}

void OutputDirectory::swap_with_target() {
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    return;
  }
  if (errno != EINVAL && errno != ENOSYS) {
    machine_error("cannot replace {}: {}", target_.string(), reason(errno));
  }
  // A file system without the exchange (NFS). Its name keeps the old one from being removed as a
  // leftover, should we be killed between the two.
  const fs::path old = temporary_.string() + "-old";
  std::error_code error;
  fs::rename(target_, old, error);
  if (error) machine_error("cannot replace {}: {}", target_.string(), error.message());
  fs::rename(temporary_, target_, error);
  if (error) {
    const std::string why = error.message();
    fs::rename(old, target_, error);
    machine_error("cannot write {}: {}", target_.string(), why);
  }
  temporary_ = old;
}

std::string read_text(const fs::path& path, uint64_t limit) {
  const MappedFile file(path);
  if (file.bytes().size() > limit) {
    user_error("{} has {} bytes; at most {} are read", path.string(), file.bytes().size(), limit);
  }
  return std::string(file.text());
}

void write_text(const fs::path& path, std::string_view text) {
  OutputFile file(path);
  file.write(text);
  file.commit();
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

void require_directory(const fs::path& path, std::string_view what) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    user_error("{}: {} {}", what, path.string(), error ? error.message() : "does not exist");
  }
  if (const std::string_view kind = kind_of(path); kind != "a directory") {
    user_error("{}: {} is not a directory but {}", what, path.string(), kind);
  }
  if (::access(path.c_str(), R_OK | X_OK) != 0) {
    user_error("{}: {} cannot be looked into: {}", what, path.string(), reason(errno));
  }
}

}  // namespace trestle
