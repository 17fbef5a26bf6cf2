// Writes a GGUF file (version 3) tensor by tensor. Called by the bridge's export.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "formats/ggml.h"
#include "formats/gguf.h"

namespace trestle {

/// Keys and values in the order in which they were set. Setting a key twice is our bug.
class GgufMetadata {
 public:
  void set_uint32(const std::string& key, int64_t value);
  void set_float(const std::string& key, double value);
  void set_bool(const std::string& key, bool value);
  void set_text(const std::string& key, std::string_view value);
  void set_texts(const std::string& key, std::span<const std::string> values);
  void set_floats(const std::string& key, std::span<const double> values);
  void set_int32s(const std::string& key, std::span<const int32_t> values);
  /// All of another's, after these.
  void append(const GgufMetadata& other);

  struct Entry {
    std::string key;
    GgufKind kind;
    std::string bytes;  // as the file has it
  };
  const std::vector<Entry>& entries() const { return entries_; }
  bool empty() const { return entries_.empty(); }

 private:
  void add(const std::string& key, GgufKind kind, std::string bytes);
  std::vector<Entry> entries_;
};

struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;  // torch's, outermost first
  GgmlType type;
};

/// What the data of these tensors take in a file.
uint64_t gguf_bytes(const std::vector<GgufTensor>& tensors);

/// Every tensor is named beforehand and written once, in any order; about 16 MiB of one is in
/// memory at a time. Nothing is visible under `path` before commit(). Throws MachineError when the
/// disk refuses.
class GgufWriter {
 public:
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             const std::vector<GgufTensor>& tensors);
  /// The next whole rows of a tensor, values of the floating-point type `dtype`, from its first row
  /// on. Throws UserError where a value lies beyond the listed type's range.
  void write_rows(const std::string& name, at::ScalarType dtype, std::span<const std::byte> rows);
  /// All of it: a floating-point tensor of the listed shape.
  void write(const std::string& name, const at::Tensor& tensor);
  /// Another text of the same length for a key that is set: what is known only at the end.
  void replace_text(const std::string& key, std::string_view text);
  /// Everything is written, at the returned place; under its name only after commit().
  std::filesystem::path finish();
  /// finish(), and the rename.
  void commit();

 private:
  struct Pending {
    GgufTensor tensor;
    uint64_t offset;     // from the start of the file
    int64_t values = 0;  // written so far
  };
  void write_values(const std::string& name, const at::Tensor& values);

  std::string path_;
  OutputFile file_;
  std::map<std::string, Pending> pending_;
  std::map<std::string, uint64_t> texts_;  // where each text value lies in the file
  uint64_t data_end_ = 0;                  // without and with the padding behind the last tensor
  uint64_t end_ = 0;
};

}  // namespace trestle
