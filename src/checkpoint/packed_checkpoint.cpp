#include "checkpoint/packed_checkpoint.h"

#include <ATen/ATen.h>

#include <array>
#include <cstring>

#include "base/error.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_layout.h"
#include "linear/linear.h"
#include "megatron/names.h"
#include "model/ministral3.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kFile = "packed.safetensors";
constexpr const char* kFormat = "trestle-packed";
constexpr const char* kVersion = "1";
constexpr int64_t kMostRowsOrColumns = int64_t{1} << 31;
// Panels begin where a processor's vectors and a page of the map do, as far as their sizes let
// them.
constexpr uint64_t kAlignment = 4096;

struct NamedForm {
  PanelForm form;
  std::string_view name;
};
constexpr std::array<NamedForm, 3> kForms = {
    {{PanelForm::kBf16, "bf16"}, {PanelForm::kInt8, "int8"}, {PanelForm::kInt4, "int4"}}};

TensorInfo as_stored(const PanelShape& shape) {
  return {at::kByte, {shape.panels(), shape.panel_bytes()}};
}

[[noreturn]] void refuse(const SafetensorsFile& file, const std::string& why) {
  user_error("{}: {}; make it again with trestle quantize", file.path().string(), why);
}

std::string said(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? std::string() : found->second;
}

// [form, rows, columns] of a matrix.
PanelShape shape_of(const SafetensorsFile& file, const std::string& name, const Json& said) {
  const bool three = said.is_array() && said.size() == 3 && said[0].is_string() &&
                     said[1].is_number_unsigned() && said[2].is_number_unsigned();
  const auto form = three ? panel_form_of(said[0].get<std::string>()) : std::nullopt;
  if (!form)
    refuse(file, fmt::format("matrix {} is {}, not [form, rows, columns]", name, excerpt(said)));
  const uint64_t rows = said[1].get<uint64_t>(), columns = said[2].get<uint64_t>();
  for (const uint64_t size : {rows, columns}) {
    if (size == 0 || size >= kMostRowsOrColumns) {
      refuse(file, fmt::format("matrix {} is said to have {} rows or columns", name, size));
    }
  }
  const PanelShape shape{*form, static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
  const auto stored = file.tensors().find(name);
  if (stored == file.tensors().end()) refuse(file, fmt::format("matrix {} is missing", name));
  if (stored->second != as_stored(shape)) {
    refuse(file, fmt::format("matrix {} of {} [{}, {}] is stored as {}, not {}", name,
                             panel_form_name(*form), rows, columns, describe(stored->second),
                             describe(as_stored(shape))));
  }
  return shape;
}

}  // namespace

std::string_view panel_form_name(PanelForm form) {
  return std::ranges::find(kForms, form, &NamedForm::form)->name;
}

std::optional<PanelForm> panel_form_of(std::string_view name) {
  const auto* const found = std::ranges::find(kForms, name, &NamedForm::name);
  return found == kForms.end() ? std::nullopt : std::optional(found->form);
}

PackedCheckpoint::PackedCheckpoint(const fs::path& directory)
    : config_json_(read_json(directory / "config.json")), file_(directory / kFile) {
  config_ = parse_hf_config(config_json_, (directory / "config.json").string());
  if (const std::string format = said(file_, "format"); format != kFormat) {
    user_error("{} is of the format {}, not {}: trestle quantize has not written it",
               file_.path().string(), excerpt(format), kFormat);
  }
  if (const std::string version = said(file_, "version"); version != kVersion) {
    refuse(file_,
           fmt::format("its version is {}, this program reads {}", excerpt(version), kVersion));
  }
  const auto form = panel_form_of(said(file_, "weights"));
  if (!form) refuse(file_, fmt::format("its weights are {}", excerpt(said(file_, "weights"))));
  form_ = *form;
  const std::string what = file_.path().string() + ": matrices";
  const Json matrices = parse_json_of_single_keys(said(file_, "matrices"), what);
  if (!matrices.is_object()) user_error("{} are {}, not an object", what, excerpt(matrices));
  for (const auto& [name, shape] : matrices.items()) shapes_[name] = shape_of(file_, name, shape);
  for (const auto& [name, info] : file_.tensors()) {
    const auto found = shapes_.find(name);
    tensors_[name] = found == shapes_.end()
                         ? info
                         : TensorInfo{at::kBFloat16, {found->second.rows, found->second.columns}};
  }
}

void PackedCheckpoint::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto matrix = panels(name);
  if (!matrix) return file_.read_rows(name, range, out);
  const at::Tensor rows =
      matrix->dense({range.first, range.count}, {0, matrix->columns()}, at::kBFloat16);
  std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
}

std::optional<PanelWeight> PackedCheckpoint::panels(const std::string& name) const {
  const auto found = shapes_.find(name);
  if (found == shapes_.end()) return {};
  return PanelWeight(file_.read(name).flatten(), found->second);
}

std::vector<std::string> PackedCheckpoint::without_finite_scales() const {
  std::vector<std::string> names;
  for (const auto& [name, shape] : shapes_) {
    const at::Tensor stored = file_.read(name);
    if (!has_finite_scales(shape, static_cast<const std::byte*>(stored.const_data_ptr()))) {
      names.push_back(name);
    }
  }
  return names;
}

void pack_range(const TensorSource& source, const std::string& name, RowRange range,
                PanelWeight& into, int64_t first) {
  if (into.set_rows(first, read_range(source, name, range))) return;
  user_error(
      "tensor {} holds a value that is no finite number, or too large for codes with a scale in "
      "fp16 (8.3 million in int8, 524,000 in int4); mend the checkpoint, or hold its weights in 16 "
      "bits",
      name);
}

PackedView::PackedView(const TensorSource& megatron, const ModelConfig& config,
                       at::ScalarType dtype, PanelForm form)
    : megatron_(megatron), form_(form) {
  Build build{dtype, at::Device(at::kMeta)};
  build.panels = form;
  const Ministral3 shell(config, build);
  for (const auto& entry : shell.named_parameters()) {
    tensors_[entry.key()] = {entry.value().scalar_type(), entry.value().sizes().vec()};
  }
  for (const auto& entry : shell.named_modules("", /*include_self=*/false)) {
    const auto* linear = dynamic_cast<const Linear*>(entry.value().get());
    if (linear == nullptr || !linear->panel_form()) continue;
    const std::string name = entry.key() + ".weight";
    const PanelShape shape{*linear->panel_form(), linear->weight.size(0), linear->weight.size(1)};
    shapes_[name] = shape;
    tensors_[name] = as_stored(shape);
  }
}

void PackedView::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto found = shapes_.find(name);
  if (found == shapes_.end()) {
    const TensorInfo& info = tensors_.at(name);
    const at::Tensor rows = read_range(megatron_, name, range).to(info.dtype).contiguous();
    std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
    return;
  }
  const PanelShape& whole = found->second;
  const int64_t first = range.first * kPanelRows;
  const int64_t rows = std::min(range.count * kPanelRows, whole.rows - first);
  PanelWeight made(rows, whole.columns, whole.form);
  pack_range(megatron_, name, {first, rows}, made, 0);
  std::memcpy(out, made.panels().const_data_ptr(), made.panels().nbytes());
}

TensorList PackedView::list() const {
  TensorList list;
  for (const auto& [name, info] : tensors_) list.emplace_back(name, info);
  return list;
}

std::map<std::string, std::string> PackedView::metadata() const {
  Json matrices = Json::object();
  for (const auto& [name, shape] : shapes_) {
    matrices[name] = {panel_form_name(shape.form), shape.rows, shape.columns};
  }
  return {{"format", kFormat},
          {"version", kVersion},
          {"weights", std::string(panel_form_name(form_))},
          {"matrices", matrices.dump()}};
}

PackedWriter::PackedWriter(const fs::path& directory, const PackedView& source, const Json& config,
                           const std::vector<fs::path>& side_files)
    : output_(directory) {
  write_json(output_.path() / "config.json", config);
  for (const fs::path& each : side_files) {
    if (!belongs_beside(each, HfSpelling::kModelFirst)) continue;
    const MappedFile file(each);
    write_text(output_.path() / each.filename(), file.text());
  }
  weights_.emplace(output_.path() / kFile, source.list(), source.metadata(), kAlignment);
}

void PackedWriter::write_rows(const std::string& name, std::span<const std::byte> rows) {
  weights_->write_rows(name, rows);
}

fs::path PackedWriter::finish() {
  if (weights_) weights_->commit();
  weights_.reset();
  return output_.path();
}

void PackedWriter::commit() {
  finish();
  output_.commit();
}

}  // namespace trestle
