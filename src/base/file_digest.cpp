#include "base/file_digest.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/thread.h"

namespace trestle {

namespace {

constexpr uint64_t kBlock = 1 << 20;
// Under this finish() is done before a thread would have begun.
constexpr uint64_t kWorthAThread = 16 << 20;

}  // namespace

FileDigest::FileDigest(std::filesystem::path path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) machine_error("cannot read {}: {}", path_.string(), std::strerror(errno));
}

FileDigest::~FileDigest() {
  {
    const std::lock_guard lock(mutex_);
    settled_ = 0;  // nobody asks any more
    ended_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
  ::close(fd_);
}

void FileDigest::settled(uint64_t end) {
  {
    const std::lock_guard lock(mutex_);
    settled_ = end;
  }
  if (thread_.joinable()) {
    changed_.notify_one();
  } else if (end >= kWorthAThread) {
    thread_ = start_thread([this] { follow(); }, "the digest of a checkpoint");
  }
}

void FileDigest::follow() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ended_ || settled_ > hashed_; });
    if (settled_ <= hashed_) return;
    // A block at a time, so that a writer that fails need not wait for the rest.
    const uint64_t end = std::min(settled_, hashed_ + kBlock);
    lock.unlock();
    try {
      hash(end);
    } catch (...) {
      error_ = std::current_exception();
      return;
    }
    lock.lock();
  }
}

std::string FileDigest::finish() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_one();
    thread_.join();
    if (error_) std::rethrow_exception(error_);
  }
  hash(settled_);
  return digest_.hex();
}

void FileDigest::hash(uint64_t end) {
  std::vector<char> block(std::min(kBlock, end - hashed_));
  while (hashed_ < end) {
    const size_t wanted = std::min<uint64_t>(block.size(), end - hashed_);
    const ssize_t n = ::pread(fd_, block.data(), wanted, static_cast<off_t>(hashed_));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      machine_error("cannot read {} at byte {}: {}", path_.string(), hashed_,
                    n < 0 ? std::strerror(errno) : "it has shrunk");
    }
    digest_.update(std::string_view(block.data(), static_cast<size_t>(n)));
    hashed_ += static_cast<uint64_t>(n);
  }
}

std::string sha256_of(const std::filesystem::path& path) {
  FileDigest digest(path);
  digest.settled(std::filesystem::file_size(path));
  return digest.finish();
}

}  // namespace trestle
