// A model whose matrices lie in panels (cpu/weight_panels.h), as `trestle quantize` writes it:
// config.json and tokenizer files as Hugging Face has them, and packed.safetensors, which is mapped
// and read as it lies. Called by the bridge.
//
// Of the file: tensors have Megatron's names. A matrix in panels is U8 [panels, bytes of a panel];
// the rest is as a model in memory has it. `__metadata__`: format "trestle-packed", version "1",
// weights "int4" (of the language model), and matrices, JSON: {name: [form, rows, columns]}.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "cpu/weight_panels.h"
#include "formats/safetensors.h"
#include "formats/tensor_source.h"
#include "model/config.h"

namespace trestle {

/// "bf16", "int8", "int4"; nothing for another name.
std::string_view panel_form_name(PanelForm form);
std::optional<PanelForm> panel_form_of(std::string_view name);

/// Under Megatron's names, a matrix in panels as bf16 [rows, columns].
class PackedCheckpoint : public TensorSource {
 public:
  /// Throws UserError naming the file and both values where it is no such directory, or of another
  /// version, or a matrix has not the bytes of its shape.
  explicit PackedCheckpoint(const std::filesystem::path& directory);

  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override { return read_all_rows(*this, name); }
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  std::optional<PanelWeight> panels(const std::string& name) const override;

  /// Of the language model's matrices.
  PanelForm form() const { return form_; }
  const ModelConfig& config() const { return config_; }
  const Json& config_json() const { return config_json_; }
  /// Matrices with a scale that is no finite number, which the file's shape does not tell; reads
  /// all panels.
  std::vector<std::string> without_finite_scales() const;

 private:
  ModelConfig config_;
  Json config_json_;
  SafetensorsFile file_;
  PanelForm form_ = PanelForm::kBf16;
  std::map<std::string, PanelShape> shapes_;
  std::map<std::string, TensorInfo> tensors_;
};

/// Reads rows of a matrix of `source` into rows from `first` on of `into` (PanelWeight::set_rows).
/// Throws UserError naming the tensor where codes cannot say a value.
void pack_range(const TensorSource& source, const std::string& name, RowRange range,
                PanelWeight& into, int64_t first);

/// Tensors of Megatron's names as packed.safetensors has them: what a model of Build{dtype, panels}
/// holds. A matrix is packed as its rows, panels, are read.
class PackedView : public TensorSource {
 public:
  /// Views `megatron`, which is whole (require_whole).
  PackedView(const TensorSource& megatron, const ModelConfig& config, at::ScalarType dtype,
             PanelForm form);

  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override { return read_all_rows(*this, name); }
  /// Throws as pack_range() does.
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  /// In the order of the file.
  TensorList list() const;
  std::map<std::string, std::string> metadata() const;

 private:
  const TensorSource& megatron_;
  PanelForm form_;
  std::map<std::string, PanelShape> shapes_;
  std::map<std::string, TensorInfo> tensors_;
};

/// Writes such a directory; nothing is visible under its name before commit(). Throws UserError
/// where it exists and is not empty, MachineError where the disk refuses.
class PackedWriter {
 public:
  PackedWriter(const std::filesystem::path& directory, const PackedView& source, const Json& config,
               const std::vector<std::filesystem::path>& side_files);
  void write_rows(const std::string& name, std::span<const std::byte> rows);
  /// Everything is written, at the returned place.
  std::filesystem::path finish();
  void commit();

 private:
  OutputDirectory output_;
  std::optional<SafetensorsWriter> weights_;
};

}  // namespace trestle
