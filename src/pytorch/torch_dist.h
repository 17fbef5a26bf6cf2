// A torch.distributed.checkpoint directory: `.metadata` says which chunk of which tensor lies where
// in the .distcp files. Called by megatron/, which knows what the names mean, and by `inspect`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/tensor_source.h"
#include "pytorch/torch_save.h"

namespace trestle {

/// Global tensors by their full names, assembled from chunks by offset. Opening reads `.metadata`,
/// maps the data files and checks every range; data is read only when asked for. The reads of a
/// chunk compare the sums of its archive's records once, about 0.1 s of CPU a GB, as soon as they
/// come to a 64th of it: a byte that the disk has changed is an error (PyTorch reads it as it is).
/// Who looks at a few rows only, to tell one checkpoint from another, does not pay for all.
class TorchDistReader : public TensorSource {
 public:
  /// Throws UserError when `.metadata` is missing, malformed, names a callable that is not the
  /// format's, or refers to bytes that do not exist.
  explicit TorchDistReader(std::filesystem::path directory);

  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  /// Throws UserError unless the chunks tile the tensor exactly.
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// Rows of `tensor[index]`.
  void read_slice_rows(const std::string& name, int64_t index, RowRange range,
                       std::byte* out) const;
  /// `tensor[index]` along the leading axis, from the chunks that touch it only.
  at::Tensor read_slice(const std::string& name, int64_t index) const;
  /// Elements [begin, begin + extent) along every axis, from the chunks that touch them only.
  /// Throws UserError where the tensor does not reach so far.
  at::Tensor read_box(const std::string& name, const std::vector<int64_t>& begin,
                      const std::vector<int64_t>& extent) const;
  /// As read(), but what no chunk covers is 0: the flat optimizer buffers (`dp_reshardable`) have
  /// padding.
  at::Tensor read_padded(const std::string& name) const;
  /// Which indices of the leading axis have any chunk.
  std::vector<bool> stored_slices(const std::string& name) const;

  /// What may be missing from a tensor that is otherwise whole.
  enum class Holes { kNone, kLeadingSlices, kAnywhere };
  /// Reads all chunks, a little at a time: that they tile the tensor, that each archive holds what
  /// `.metadata` says, and that the sums of its records are right. Throws UserError for the first
  /// that is not so.
  void check(const std::string& name, Holes holes) const;
  void check_object(const std::string& key) const;

  /// Python objects by key, such as "common_state/shard_0_1".
  std::vector<std::string> objects() const;
  bool has_object(const std::string& key) const { return objects_.contains(key); }
  SavedArchive object(const std::string& key) const;

  size_t chunk_count(const std::string& name) const { return find(name).chunks.size(); }
  size_t file_count() const { return files_.size(); }
  const std::filesystem::path& directory() const { return directory_; }

  struct Item {
    size_t file = 0;
    uint64_t offset = 0, length = 0;
  };
  struct Chunk {
    std::vector<int64_t> offsets, sizes;
    Item item;
  };
  struct Entry {
    TensorInfo info;
    std::vector<Chunk> chunks;
  };
  /// The part of a chunk that lies in a region asked for, in the region's coordinates.
  struct Box {
    const Chunk* chunk;
    std::vector<int64_t> offset, size;
  };

 private:
  const Entry& find(const std::string& name) const;
  std::vector<Box> tiles(const std::string& name, const std::vector<int64_t>& begin,
                         const std::vector<int64_t>& extent, Holes holes) const;
  at::Tensor assemble(const std::string& name, const std::vector<int64_t>& begin,
                      const std::vector<int64_t>& extent, Holes holes) const;
  void copy_boxes(const std::string& name, const std::vector<int64_t>& begin,
                  const std::vector<int64_t>& extent, const std::vector<Box>& boxes,
                  std::byte* out) const;
  SavedArchive open_chunk(const std::string& name, const Chunk& chunk) const;
  SavedTensor chunk_tensor(const std::string& name, const Chunk& chunk,
                           const SavedArchive& archive) const;
  /// Of every record, read a block at a time. Blocks of `data` are read to their places in `out`;
  /// returns how many bytes that were.
  size_t check_sums(const Chunk& chunk, const SavedArchive& archive,
                    std::span<const std::byte> data = {}, std::byte* out = nullptr) const;
  /// Copies `part` of a chunk's `data` to `out` (null: it is taken elsewhere). Checks the chunk's
  /// sums once, when the parts that were asked for make it due.
  void copy_checked(const Chunk& chunk, const SavedArchive& archive,
                    std::span<const std::byte> data, std::span<const std::byte> part,
                    std::byte* out) const;
  std::span<const std::byte> bytes(const Item& item) const;

  std::filesystem::path directory_;
  std::vector<MappedFile> files_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, Item> objects_;
  std::map<std::string, TensorInfo> tensors_;
  struct Sums;
  std::shared_ptr<Sums> sums_;
};

}  // namespace trestle
