// Writes a torch.distributed.checkpoint directory: chunks into one .distcp file as they come, then
// `.metadata`. Called by megatron/writer, which adds the files that make it a Megatron checkpoint.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_digest.h"
#include "formats/tensor_source.h"
#include "pytorch/torch_save.h"

namespace trestle {

/// Which part of a tensor a chunk is, and which file takes it: every rank of a parallel run has a
/// file of its own.
struct ChunkPlace {
  std::vector<int64_t> offsets, sizes;
  int64_t rank = 0;
};

class TorchDistWriter {
 public:
  /// The directory exists; nothing else writes into it. Files are those of `ranks` ranks.
  explicit TorchDistWriter(const std::filesystem::path& directory, int64_t ranks = 1);

  /// One chunk of the tensor `key` of shape and type `whole`: begun, brought in pieces, and ended
  /// by its last byte. The caller sees to it that chunks tile the tensor. One chunk a rank may be
  /// open at a time. Throws MachineError when the disk refuses.
  void begin_chunk(const std::string& key, const TensorInfo& whole, const ChunkPlace& place);
  void append(int64_t rank, std::span<const std::byte> data);
  /// A Python object; megatron-core expects a list of one value.
  void write_object(const std::string& key, SavedArchiveWriter object, int64_t rank = 0);
  /// Data on the disk first, then `.metadata` under its name: whoever sees it can read everything.
  void commit();
  /// By the names of the ranks' files, behind commit(): hashed while they were written.
  const std::map<std::string, std::string>& sha256() const { return sha256_; }

 private:
  struct Chunk {
    ChunkPlace place;
    uint64_t offset, length;
  };
  struct Entry {
    bool is_tensor = false;
    TensorInfo whole;
    std::deque<Chunk> chunks;  // of an object one, with a place only; pointers to them last
  };
  struct RankFile {
    std::string name;
    OutputFile file;
    FileDigest digest;
    std::optional<SavedTensorStream> stream;
    uint64_t left = 0;
    Chunk* chunk = nullptr;  // the open one

    RankFile(const std::filesystem::path& directory, std::string name);
  };
  Entry& entry(const std::string& key);
  void end_if_full(RankFile& rank);
  std::string metadata() const;

  std::filesystem::path directory_;
  std::deque<RankFile> ranks_;
  std::vector<std::string> order_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> sha256_;
};

}  // namespace trestle
