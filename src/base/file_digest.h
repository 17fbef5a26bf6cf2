// SHA-256 of a file while it grows: what is written is hashed behind the writer, from the page
// cache, and nobody reads a checkpoint once more for its digest. Called by TorchDistWriter.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

#include "base/digest.h"

namespace trestle {

class FileDigest {
 public:
  /// The file is there; it may be renamed later. Throws MachineError when it cannot be opened.
  explicit FileDigest(std::filesystem::path path);
  ~FileDigest();
  FileDigest(const FileDigest&) = delete;
  FileDigest& operator=(const FileDigest&) = delete;

  /// Bytes before `end` are written and will not change: a thread hashes them meanwhile where they
  /// are worth one. Throws MachineError where there are no more threads.
  void settled(uint64_t end);
  /// The digest in lower-case hex of the settled bytes, which are the whole file. Throws
  /// MachineError when the disk fails. To be called once.
  std::string finish();

 private:
  void follow();
  /// From where the last call ended.
  void hash(uint64_t end);

  std::filesystem::path path_;
  int fd_;
  Digest digest_{Digest::Kind::kSha256};
  uint64_t hashed_ = 0;  // the thread's, once there is one

  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t settled_ = 0;
  bool ended_ = false;
  std::exception_ptr error_;
  std::jthread thread_;
};

/// Of a whole file. Throws as FileDigest does.
std::string sha256_of(const std::filesystem::path& path);

}  // namespace trestle
