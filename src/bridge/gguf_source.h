// llama.cpp's two files of a model as one source of Hugging Face's canonical names. Called by
// compare and by the verification of what export_gguf wrote.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "bridge/views.h"
#include "formats/gguf.h"
#include "formats/tensor_source.h"
#include "model/config.h"

namespace trestle {

class GgufSource : public TensorSource {
 public:
  /// A file of the architecture `mistral3` and, for a model with a vision tower, its mmproj. Throws
  /// UserError naming the file and the key or tensor that is missing, does not fit or is left
  /// over.
  GgufSource(const std::filesystem::path& language,
             const std::optional<std::filesystem::path>& mmproj);
  /// A language model's file with mmproj-NAME beside it, or a directory that has one such pair.
  static GgufSource open(const std::filesystem::path& path);

  const ModelConfig& config() const { return config_; }
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  /// As the files hold them, but the rows of q and k in Hugging Face's order; Q8_0 as float32.
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;

 private:
  struct Place {
    const GgufFile* file;
    std::string name;
  };
  void require_no_more(const GgufFile& file) const;

  std::unique_ptr<GgufFile> language_, vision_;
  ModelConfig config_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, Place> places_;
};

/// Tensors of canonical names as a GGUF file with matrices of `type` gives them back: what the
/// types of llama.cpp make of the values. Views `source` and `config`.
class GgufRounded : public TensorSource {
 public:
  GgufRounded(const TensorSource& source, const ModelConfig& config, GgmlType type);
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override { return read_all_rows(*this, name); }
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;

 private:
  const TensorSource& source_;
  std::map<std::string, GgmlType> types_;
  std::map<std::string, TensorInfo> tensors_;
};

/// Whether `path` is a GGUF file, or a directory that holds some and no model of another form.
bool is_gguf_model(const std::filesystem::path& path);

}  // namespace trestle
