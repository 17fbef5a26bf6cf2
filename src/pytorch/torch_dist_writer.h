// Writes a torch.distributed.checkpoint directory: chunks into .distcp files as they come, then
// `.metadata`. Called by megatron/, which adds the files that make it a Megatron checkpoint.
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
#include "pytorch/torch_dist_index.h"
#include "pytorch/torch_save.h"

namespace trestle {

/// "__3_0.distcp".
std::string distcp_name(int64_t rank);

/// The .distcp file of one rank.
class TorchDistFile {
 public:
  /// The directory exists; nothing else writes this rank's file.
  TorchDistFile(const std::filesystem::path& directory, int64_t rank);

  /// One chunk of the tensor `key` of shape and type `whole`: begun, brought in pieces, and ended
  /// by its last byte. Throws MachineError when the disk refuses.
  void begin_chunk(const std::string& key, const TensorInfo& whole, std::vector<int64_t> offsets,
                   std::vector<int64_t> sizes);
  void append(std::span<const std::byte> data);
  /// A Python object; megatron-core expects a list of one value.
  void write_object(const std::string& key, SavedArchiveWriter object);
  /// On the disk, under its name.
  void commit();

  const std::string& name() const { return name_; }
  const TorchDistIndex& index() const { return index_; }
  /// Behind commit(): hashed while it was written.
  const std::string& sha256() const { return sha256_; }

 private:
  void end_if_full();

  std::string name_;
  OutputFile file_;
  FileDigest digest_;
  TorchDistIndex index_;
  std::optional<SavedTensorStream> stream_;
  uint64_t left_ = 0;
  TorchDistIndex::Chunk* chunk_ = nullptr;  // the open one
  std::string sha256_;
};

/// Which part of a tensor a chunk is, and which rank's file takes it.
struct ChunkPlace {
  std::vector<int64_t> offsets, sizes;
  int64_t rank = 0;
};

/// The files of all ranks, by one process.
class TorchDistWriter {
 public:
  /// The directory exists; nothing else writes into it.
  explicit TorchDistWriter(const std::filesystem::path& directory, int64_t ranks = 1);

  /// As TorchDistFile's. The caller sees to it that chunks tile the tensor. One chunk a rank may be
  /// open at a time.
  void begin_chunk(const std::string& key, const TensorInfo& whole, const ChunkPlace& place);
  void append(int64_t rank, std::span<const std::byte> data);
  void write_object(const std::string& key, SavedArchiveWriter object, int64_t rank = 0);
  /// Data on the disk first, then `.metadata` under its name: whoever sees it can read everything.
  void commit();
  /// By the names of the ranks' files, behind commit().
  const std::map<std::string, std::string>& sha256() const { return sha256_; }

 private:
  TorchDistFile& of_rank(int64_t rank) { return ranks_.at(static_cast<size_t>(rank)); }

  std::filesystem::path directory_;
  std::deque<TorchDistFile> ranks_;
  std::map<std::string, std::string> sha256_;
};

}  // namespace trestle
