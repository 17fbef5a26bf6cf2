// Which chunk of which tensor lies where in .distcp files: what `.metadata` is written from. Every
// rank has one of its own file; one of them joins all. Called by TorchDistFile and whoever gathers
// the indexes of many.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "formats/tensor_source.h"

namespace trestle {

class TorchDistIndex {
 public:
  struct Chunk {
    /// Of a tensor: as many as it has axes. Of an object: none.
    std::vector<int64_t> offsets, sizes;
    /// A name in the checkpoint's directory.
    std::string file;
    uint64_t offset = 0, length = 0;
  };
  struct Entry {
    bool is_tensor = false;
    TensorInfo whole;
    /// Of an object one; pointers to them last.
    std::deque<Chunk> chunks;
  };

  /// One chunk more of the tensor `key` of shape and type `whole`, the same for all of them.
  Chunk& add_chunk(const std::string& key, const TensorInfo& whole, Chunk chunk);
  void add_object(const std::string& key, Chunk place);

  const std::map<std::string, Entry>& entries() const { return entries_; }
  /// Of one file.
  uint64_t bytes_of(const std::string& file) const;

  /// Takes in what another rank has; no chunk and no object is in both.
  void join(const TorchDistIndex& other);
  /// For another rank of this program: to_text() of one version is read by the same alone.
  std::string to_text() const;
  static TorchDistIndex from_text(const std::string& text);

  /// The pickle that `.metadata` holds.
  std::string metadata() const;

 private:
  Entry& entry(const std::string& key);

  std::vector<std::string> order_;  // of keys, as they came
  std::map<std::string, Entry> entries_;
};

}  // namespace trestle
