// Arrow's arrays moved from memory to a temporary file, from which they are read in place. Called
// by parquet_group.cpp alone.
#pragma once

#include <arrow/type_fwd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

namespace trestle {

/// A file without a name, mapped for reading; it goes with the last array that lies in it.
class SpilledFile {
 public:
  /// `fd` holds `size` bytes, above 0; it may be closed. Throws MachineError.
  SpilledFile(int fd, size_t size);
  ~SpilledFile();
  SpilledFile(const SpilledFile&) = delete;
  SpilledFile& operator=(const SpilledFile&) = delete;

  const uint8_t* data() const { return data_; }
  /// Lets the pages go that were read; they come back from the page cache or the disk.
  void release() const;

 private:
  uint8_t* data_ = nullptr;
  size_t size_;
};

struct SpilledArrays {
  std::vector<std::shared_ptr<arrow::Array>> arrays;
  std::shared_ptr<const SpilledFile> file;
};

/// The same arrays, of the same types, their buffers in a file of `folder`, on whose disk `spare`
/// bytes stay free. Throws MachineError where there is no room, or no such folder.
SpilledArrays spill(const std::vector<std::shared_ptr<arrow::Array>>& arrays,
                    const std::filesystem::path& folder, int64_t spare);

}  // namespace trestle
