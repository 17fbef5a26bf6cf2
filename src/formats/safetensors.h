// One safetensors file, read through a memory map and written as a stream.
// Called by hf_checkpoint for models and by whoever stores plain tensors (adapters, `trestle
// logits`, goldens).
//
// Format: a little-endian u64 header length, that many bytes of JSON, then the data. The JSON maps
// each name to
// {"dtype", "shape", "data_offsets": [begin, end]} counted from the start of the data;
// `__metadata__` maps strings to strings. The tensors must tile the data: no overlap, no hole,
// nothing after the last.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "formats/tensor_source.h"

namespace trestle {

/// A dtype as safetensors spells it ("BF16", "F8_E4M3"); nothing for a dtype the format lacks.
std::optional<std::string_view> safetensors_dtype(at::ScalarType dtype);
/// "BF16 [288, 48]", for messages and `trestle inspect`.
std::string describe(const TensorInfo& info);
/// dtype and shape of a tensor in memory.
TensorInfo info_of(const at::Tensor& tensor);
/// Bytes of the data, of packed types rounded up; nothing where a size is negative or the product
/// passes 64 bits.
std::optional<uint64_t> byte_size(const TensorInfo& info);

/// JSON whose keys are tensor names (a header, a shard index). Unlike parse_json it refuses
/// repeated keys and more than four levels, and stays fast with a million names. `what` names the
/// text in the UserError.
nlohmann::json parse_tensor_json(std::string_view text, std::string_view what);

/// What the header says of every tensor, checked to lie in the file.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, uint64_t> offsets;  // from the start of the file
  std::map<std::string, std::string> metadata;
};

/// `bytes` is the whole file, of which only the header is read; `file` names it. Throws UserError
/// naming the file, the tensor and both values.
SafetensorsHeader parse_safetensors_header(std::string_view bytes, const std::string& file);

class SafetensorsFile : public TensorSource {
 public:
  /// Checks the whole header, as parse_safetensors_header.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::map<std::string, TensorInfo>& tensors() const override { return header_.tensors; }
  /// Views the mapped file, which lives as long as the tensor; copied only where the file misaligns
  /// it for its dtype.
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const std::filesystem::path& path() const { return file_->path(); }

 private:
  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
};

/// Names with dtype and shape in the order of the model, as writers take them.
using TensorList = std::vector<std::pair<std::string, TensorInfo>>;

/// Writes one file; every tensor is named beforehand and written once, in any order. Nothing is
/// visible under `path` before commit(). Throws MachineError when the disk refuses; a tensor that
/// differs from the list is our bug.
class SafetensorsWriter {
 public:
  /// The data begins at a multiple of `alignment`, itself a multiple of 8.
  SafetensorsWriter(const std::filesystem::path& path, const TensorList& tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}},
                    uint64_t alignment = 8);
  void write(const std::string& name, const at::Tensor& tensor);
  /// The next rows of a tensor; true with its last.
  bool write_rows(const std::string& name, std::span<const std::byte> rows);
  void commit();

 private:
  struct Pending {
    TensorInfo info;
    uint64_t offset;  // of the next byte
    uint64_t left;
  };
  OutputFile file_;
  std::map<std::string, Pending> pending_;
};

}  // namespace trestle
