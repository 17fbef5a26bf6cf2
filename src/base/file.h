// Files as the rest of the program uses them: mapped for reading, and written beside their target
// and renamed last, so that a crash at any moment leaves the old file or none. Called by every
// stage that touches the disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace trestle {

/// A whole file mapped read-only. Throws UserError naming the file when it is missing or
/// unreadable.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Copies `part` of bytes() to `out` by reading the file: unlike reading the map it leaves no
  /// pages in this process. Throws MachineError when the disk fails or the file has shrunk.
  void copy(std::span<const std::byte> part, std::byte* out) const;
  /// Lets the pages of a part go that was read and is not needed soon; it reads the same again.
  void release(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Writes `path` through a temporary file beside it. Until commit() nothing is visible under
/// `path`; without commit() the temporary file and the parents made for it are removed. What a
/// killed process left beside the same target is removed first. Throws MachineError (disk full,
/// read-only) naming the target.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Bytes written so far, which is the offset of the next byte.
  uint64_t offset() const { return offset_; }
  /// Writes at an absolute offset without moving the end; the range may lie past it.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  /// Where the bytes are until commit().
  const std::filesystem::path& temporary() const { return temporary_; }
  /// fsync, rename, fsync of the directory.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::filesystem::path created_;  // the highest parent that was made for it
  int fd_ = -1;                    // locked
  uint64_t offset_ = 0;
  bool committed_ = false;
};

/// A directory written under a temporary name beside `path` and renamed by commit(). An existing
/// target must be empty or, with `replace`, is exchanged for the new one in one step (where the
/// file system can). Without commit() the temporary directory and the parents made for it are
/// removed; what a killed process left beside the same target is removed first.
class OutputDirectory {
 public:
  explicit OutputDirectory(std::filesystem::path path, bool replace = false);
  ~OutputDirectory();
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  /// Where to write until commit().
  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  void swap_with_target();

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  std::filesystem::path created_;  // the highest parent that was made for it
  int lock_ = -1;
  bool replace_;
  bool committed_ = false;
};

/// Whole file as text; refuses more than `limit` bytes before it asks for memory.
std::string read_text(const std::filesystem::path& path, uint64_t limit = 1ull << 30);
/// Removes what killed processes left of an OutputFile or OutputDirectory for `target`.
void remove_leftovers(const std::filesystem::path& target);

/// Atomic write of a small file.
void write_text(const std::filesystem::path& path, std::string_view text);
/// Whether anything has this name. A name too long to ask for, or a place that may not be looked
/// into, has none.
bool is_there(const std::filesystem::path& path);
/// Throws UserError when `path` is not a directory.
void require_directory(const std::filesystem::path& path, std::string_view what);

}  // namespace trestle
