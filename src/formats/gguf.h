// One GGUF file (llama.cpp's format, versions 2 and 3), read through a memory map. Called by
// `trestle inspect` and by whoever checks what was exported; gguf_writer writes them.
//
// Format, little-endian: "GGUF", u32 version, u64 tensors, u64 keys; the keys (string, u32 kind,
// value); the tensors (string, u32 dimensions, u64 sizes from the innermost out, u32 ggml type, u64
// offset); then, at a multiple of `general.alignment` (32), the data. A string is a u64 length and
// its bytes, an array the kind and u64 count of its elements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/file.h"
#include "formats/ggml.h"
#include "formats/gguf_value.h"
#include "formats/tensor_source.h"

namespace trestle {

class GgufFile : public TensorSource {
 public:
  /// Checks everything but the values. Throws UserError naming the file, the key or tensor and both
  /// values.
  explicit GgufFile(const std::filesystem::path& path);

  /// Shapes are torch's, outermost first. Types this program cannot decode are listed as float32.
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  /// A view of the file for F32, F16 and BF16; Q8_0 as float32. Throws UserError for other types.
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// The ggml type in which a tensor lies in the file.
  const GgmlLayout& stored(const std::string& name) const { return *places_.at(name).layout; }
  /// Bytes of the tensor in the file.
  uint64_t stored_bytes(const std::string& name) const { return places_.at(name).bytes; }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_->path(); }

 private:
  class Header;
  struct Place {
    const GgmlLayout* layout;
    uint64_t offset;  // from the start of the file
    uint64_t bytes;
  };
  void read_metadata(Header& header);
  uint64_t alignment() const;
  void read_tensor(Header& header, uint64_t alignment);
  void place_data(uint64_t begin, uint64_t alignment);
  const Place& readable(const std::string& name) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, Place> places_;
};

/// Whether the file begins with GGUF's four letters. Throws UserError where it cannot be read.
bool is_gguf(const std::filesystem::path& path);

}  // namespace trestle
