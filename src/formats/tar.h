// The members of a tar file, found by one pass over its headers and read when asked. Called by the
// webdataset data set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace trestle {

/// A regular file of the archive.
struct TarMember {
  std::string name;  // UTF-8
  /// Bytes from the start of the archive.
  uint64_t offset = 0;
  uint64_t size = 0;
};

class TarFile {
 public:
  /// Reads the headers only: ustar, GNU (long names, base-256 sizes) and pax (path, size), each
  /// with its sum checked and each size compared with the file. Directories, devices and pipes are
  /// left out; links and sparse files are refused, because what they stand for would be missing.
  /// Ends at a block of zeros, or where the file ends between two members. Throws UserError naming
  /// file and member; a gzip'ed archive is told to be unpacked.
  explicit TarFile(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<TarMember>& members() const { return members_; }

  /// The bytes of one of members(). May be called from many threads; no file is held open between
  /// calls, so there may be more archives than descriptors. Throws UserError when the file has
  /// become shorter.
  std::string read(const TarMember& member) const;

 private:
  std::filesystem::path path_;
  std::vector<TarMember> members_;
};

}  // namespace trestle
