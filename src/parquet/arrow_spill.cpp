#include "parquet/arrow_spill.h"

#include <arrow/api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr size_t kAlignment = 64;  // as Arrow's own buffers have it

size_t aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// fn(buffer) for each buffer of an array that has bytes, in one order.
template <class Data, class Function>
void each_buffer(Data& data, const Function& fn) {
  for (auto& buffer : data.buffers) {
    if (buffer && buffer->size() > 0) fn(buffer);
  }
  for (auto& child : data.child_data) each_buffer(*child, fn);
  if (data.dictionary) each_buffer(*data.dictionary, fn);
}

// The tree of an array's data, its buffers shared with it.
std::shared_ptr<arrow::ArrayData> copy_of_tree(const arrow::ArrayData& data) {
  auto copy = data.Copy();
  for (auto& child : copy->child_data) child = copy_of_tree(*child);
  if (copy->dictionary) copy->dictionary = copy_of_tree(*copy->dictionary);
  return copy;
}

class SpilledBuffer : public arrow::Buffer {
 public:
  SpilledBuffer(std::shared_ptr<const SpilledFile> file, size_t offset, int64_t size)
      : Buffer(file->data() + offset, size), file_(std::move(file)) {}

 private:
  std::shared_ptr<const SpilledFile> file_;
};

// What is written to it is gone when it is closed.
class NamelessFile {
 public:
  explicit NamelessFile(const fs::path& folder) {
    std::string name = (folder / "trestle-rows-XXXXXX").string();
    fd_ = ::mkostemp(name.data(), O_CLOEXEC);
    if (fd_ < 0) machine_error("cannot write to {}: {}", folder.string(), std::strerror(errno));
    ::unlink(name.c_str());
    folder_ = folder.string();
  }
  ~NamelessFile() { ::close(fd_); }
  NamelessFile(const NamelessFile&) = delete;
  NamelessFile& operator=(const NamelessFile&) = delete;

  void require_room(size_t size, int64_t spare) const {
    struct statvfs disk {};
    if (::fstatvfs(fd_, &disk) != 0) return;
    const uint64_t free = disk.f_bavail * disk.f_frsize;
    const auto kept = static_cast<uint64_t>(spare);
    if (free >= kept && free - kept >= size) return;
    machine_error("{} has {} MiB free, of which {} stay free, for {} MiB", folder_, free >> 20,
                  kept >> 20, (size >> 20) + 1);
  }

  void write(const uint8_t* data, size_t size, size_t offset) const {
    while (size > 0) {
      const ssize_t written = ::pwrite(fd_, data, size, static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) machine_error("cannot write to {}: {}", folder_, std::strerror(errno));
      data += written;
      size -= static_cast<size_t>(written);
      offset += static_cast<size_t>(written);
    }
  }
  int fd() const { return fd_; }

 private:
  std::string folder_;
  int fd_ = -1;
};

}  // namespace

SpilledFile::SpilledFile(int fd, size_t size) : size_(size) {
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) machine_error("cannot map {} bytes: {}", size, std::strerror(errno));
  data_ = static_cast<uint8_t*>(data);
}

SpilledFile::~SpilledFile() { ::munmap(data_, size_); }

void SpilledFile::release() const { ::madvise(data_, size_, MADV_DONTNEED); }

SpilledArrays spill(const std::vector<std::shared_ptr<arrow::Array>>& arrays,
                    const fs::path& folder, int64_t spare) {
  std::vector<std::shared_ptr<arrow::ArrayData>> trees;
  size_t size = 0;
  for (const auto& array : arrays) {
    trees.push_back(copy_of_tree(*array->data()));
    each_buffer(*trees.back(),
                [&](const auto& buffer) { size += aligned(static_cast<size_t>(buffer->size())); });
  }
  if (size == 0) return {arrays, nullptr};
  const NamelessFile output(folder);
  output.require_room(size, spare);
  size_t offset = 0;
  for (const auto& tree : trees) {
    each_buffer(*tree, [&](const auto& buffer) {
      const auto bytes = static_cast<size_t>(buffer->size());
      output.write(buffer->data(), bytes, offset);
      offset += aligned(bytes);
    });
  }
  const auto file = std::make_shared<const SpilledFile>(output.fd(), offset);
  SpilledArrays result{{}, file};
  offset = 0;
  for (const auto& tree : trees) {
    each_buffer(*tree, [&](auto& buffer) {
      const int64_t bytes = buffer->size();
      buffer = std::make_shared<SpilledBuffer>(file, offset, bytes);
      offset += aligned(static_cast<size_t>(bytes));
    });
    result.arrays.push_back(arrow::MakeArray(tree));
  }
  return result;
}

}  // namespace trestle
