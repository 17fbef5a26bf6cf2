#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

std::string reason(int error) { return std::strerror(error); }

// A name beside the target, so that the rename stays on one file system.
fs::path beside(const fs::path& path) {
  fs::path clean = path.has_filename() ? path : path.parent_path();
  return clean.parent_path() / fmt::format(".{}.tmp-{}", clean.filename().string(), ::getpid());
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

void sync_path(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

MappedFile::MappedFile(const fs::path& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
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

OutputFile::OutputFile(fs::path path) : path_(std::move(path)), temporary_(beside(path_)) {
  make_parent(path_);
  fd_ = ::open(temporary_.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0666);
  if (fd_ < 0) machine_error("cannot write {}: {}", path_.string(), reason(errno));
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
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
  if (::fsync(fd_) != 0) machine_error("cannot write {}: {}", path_.string(), reason(errno));
  if (::close(std::exchange(fd_, -1)) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    machine_error("cannot write {}: {}", path_.string(), reason(error));
  }
  sync_path(path_.has_parent_path() ? path_.parent_path() : fs::path("."));
}

OutputDirectory::OutputDirectory(fs::path path, bool replace)
    : target_(path.has_filename() ? std::move(path) : path.parent_path()),
      temporary_(beside(target_)),
      replace_(replace) {
  std::error_code error;
  if (fs::exists(target_, error) && !replace_ && !fs::is_empty(target_, error)) {
    user_error("{} exists and is not empty; name a new directory or remove it", target_.string());
  }
  created_ = make_parent(target_);
  fs::remove_all(temporary_, error);
  fs::create_directory(temporary_, error);
  if (error) machine_error("cannot write {}: {}", target_.string(), error.message());
}

OutputDirectory::~OutputDirectory() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
  remove_empty(target_.parent_path(), created_);
}

void OutputDirectory::commit() {
  std::error_code error;
  const fs::path old = temporary_.string() + "-old";
  const bool had_target = fs::exists(target_, error);
  if (had_target) fs::rename(target_, old, error);
  if (error) machine_error("cannot replace {}: {}", target_.string(), error.message());
  fs::rename(temporary_, target_, error);
  if (error) {
    const std::string why = error.message();
    if (had_target) fs::rename(old, target_, error);
    machine_error("cannot write {}: {}", target_.string(), why);
  }
  committed_ = true;
  sync_path(target_.has_parent_path() ? target_.parent_path() : fs::path("."));
  if (had_target) fs::remove_all(old, error);
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

void require_directory(const fs::path& path, std::string_view what) {
  std::error_code error;
  if (!fs::exists(path, error)) user_error("{}: {} does not exist", what, path.string());
  if (!fs::is_directory(path, error)) user_error("{}: {} is not a directory", what, path.string());
}

}  // namespace trestle
