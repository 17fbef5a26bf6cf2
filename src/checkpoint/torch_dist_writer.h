// Writes a torch.distributed.checkpoint directory: chunks into one .distcp file as they come, then
// `.metadata`. Called by megatron_writer, which adds the files that make it a Megatron checkpoint.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/tensor_source.h"
#include "checkpoint/torch_save.h"

namespace trestle {

class TorchDistWriter {
 public:
  /// The directory exists; nothing else writes into it.
  explicit TorchDistWriter(const std::filesystem::path& directory);

  /// One chunk of the tensor `key` of shape and type `whole`. The caller sees to it that chunks
  /// tile the tensor. Throws MachineError when the disk refuses.
  void write_chunk(const std::string& key, const TensorInfo& whole,
                   const std::vector<int64_t>& offsets, const at::Tensor& chunk);
  /// A Python object; megatron-core expects a list of one value.
  void write_object(const std::string& key, SavedArchiveWriter object);
  /// Data on the disk first, then `.metadata` under its name: whoever sees it can read everything.
  void commit();

 private:
  struct Chunk {
    std::vector<int64_t> offsets, sizes;
    uint64_t offset, length;
  };
  struct Entry {
    bool is_tensor = false;
    TensorInfo whole;
    std::vector<Chunk> chunks;  // of an object one, with a place only
  };
  Entry& entry(const std::string& key);
  std::string metadata() const;

  std::filesystem::path directory_;
  OutputFile data_;
  std::vector<std::string> order_;
  std::map<std::string, Entry> entries_;
};

}  // namespace trestle
