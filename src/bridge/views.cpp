#include "bridge/views.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <set>

#include "base/error.h"
#include "formats/safetensors.h"
#include "megatron/names.h"

namespace trestle {

namespace {

// Compares one tensor with what the config asks for; null where it is missing.
const TensorInfo* compare(const TensorSource& source, const std::string& name,
                          const std::vector<int64_t>& wanted, bool padded,
                          std::vector<std::string>& out) {
  const auto found = source.tensors().find(name);
  if (found == source.tensors().end()) {
    out.push_back(
        fmt::format("tensor {} is missing from the checkpoint but its config asks for it", name));
    return nullptr;
  }
  std::vector<int64_t> got = found->second.shape;
  if (padded && !got.empty()) got[0] = std::min(got[0], wanted[0]);
  if (got != wanted) {
    out.push_back(fmt::format(
        "tensor {} has shape [{}] but the config says [{}]; are config and weights of one model?",
        name, fmt::join(found->second.shape, ", "), fmt::join(wanted, ", ")));
  }
  return &found->second;
}

void require_agreement(const TensorSource& source, const std::vector<Mapping>& table, Spoken spoken,
                       bool tied) {
  const auto found = disagreements(source, table, spoken, tied);
  if (!found.empty()) throw UserError(found.front());
}

}  // namespace

void require_whole(const TensorSource& megatron, const ModelConfig& config,
                   std::string_view place) {
  const auto found = disagreements(megatron, mappings(config), Spoken::kMegatron, false);
  if (!found.empty()) user_error("{}: {}", place, found.front());
}

std::vector<std::string> disagreements(const TensorSource& source,
                                       const std::vector<Mapping>& table, Spoken spoken,
                                       bool tied) {
  std::vector<std::string> out;
  std::set<std::string> used;
  for (const Mapping& mapping : table) {
    if (spoken == Spoken::kMegatron) {
      compare(source, mapping.megatron, mapping.shape, may_be_padded(mapping.megatron), out);
      used.insert(mapping.megatron);
      continue;
    }
    const TensorInfo* first = nullptr;
    for (size_t part = 0; part < mapping.hf.size(); ++part) {
      const std::string& name = mapping.hf[part];
      const TensorInfo* info = compare(source, name, mapping.hf_shape(part), false, out);
      if (part == 0) first = info;
      if (first && info && (info->dtype != first->dtype || info->packed != first->packed)) {
        out.push_back(fmt::format("{} is {} but {} is {}; parts of one fused tensor must agree",
                                  mapping.hf[0], describe(*first), name, describe(*info)));
      }
      used.insert(name);
    }
  }
  // A tied checkpoint may repeat the embedding as its head; HfCheckpoint has checked that they are
  // equal.
  if (tied) used.insert("lm_head.weight");
  for (const auto& [name, info] : source.tensors()) {
    if (!used.contains(name)) {
      out.push_back(
          fmt::format("tensor {} [{}] has no place in the model that the config describes", name,
                      fmt::join(info.shape, ", ")));
    }
  }
  return out;
}

at::Tensor cut_to(const at::Tensor& tensor, const std::vector<int64_t>& shape) {
  return tensor.size(0) > shape[0] ? tensor.narrow(0, 0, shape[0]) : tensor;
}

HfAsMegatron::HfAsMegatron(const TensorSource& hf, const ModelConfig& config)
    : hf_(hf), table_(mappings(config)) {
  require_agreement(hf, table_, Spoken::kHuggingFace, config.text.tie_word_embeddings);
  for (const Mapping& mapping : table_) {
    tensors_[mapping.megatron] = {hf.tensors().at(mapping.hf[0]).dtype, mapping.shape};
    by_name_[mapping.megatron] = &mapping;
  }
}

at::Tensor HfAsMegatron::read(const std::string& name) const {
  const Mapping& mapping = *by_name_.at(name);
  if (mapping.hf.size() == 1) return hf_.read(mapping.hf[0]);
  return read_all_rows(*this, name);
}

void HfAsMegatron::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const Mapping& mapping = *by_name_.at(name);
  const uint64_t row = tensors_.at(name).row_bytes();
  for (const auto& run : mapping.layout.runs(range.first, range.count, mapping.rows())) {
    hf_.read_rows(mapping.hf[run.part], {run.part_row, run.rows},
                  out + row * static_cast<uint64_t>(run.fused_row - range.first));
  }
}

std::optional<Fp8Scales> HfAsMegatron::fp8_scales(const std::string& name) const {
  const Mapping& mapping = *by_name_.at(name);
  if (mapping.hf.size() == 1) return hf_.fp8_scales(mapping.hf[0]);
  std::vector<at::Tensor> values, grid_rows;
  int64_t columns = 0, rows = 0;
  for (const std::string& part : mapping.hf) {
    auto scales = hf_.fp8_scales(part);
    if (!scales || (columns != 0 && scales->columns != columns)) return {};
    columns = scales->columns;
    grid_rows.push_back(scales->grid_row + rows);
    rows += scales->values.size(0);
    values.push_back(std::move(scales->values));
  }
  return Fp8Scales{at::cat(values), mapping.layout.fuse(grid_rows, 0).to(at::kInt).contiguous(),
                   columns};
}

void HfAsMegatron::read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const {
  const Mapping& mapping = *by_name_.at(name);
  const auto row = static_cast<uint64_t>(mapping.shape[1]);
  for (const auto& run : mapping.layout.runs(range.first, range.count, mapping.rows())) {
    hf_.read_fp8_rows(mapping.hf[run.part], {run.part_row, run.rows},
                      out + row * static_cast<uint64_t>(run.fused_row - range.first));
  }
}

MegatronAsHf::MegatronAsHf(const TensorSource& megatron, const ModelConfig& config)
    : megatron_(megatron), table_(mappings(config)) {
  require_agreement(megatron, table_, Spoken::kMegatron, false);
  for (const Mapping& mapping : table_) {
    const TensorInfo& info = megatron.tensors().at(mapping.megatron);
    for (size_t part = 0; part < mapping.hf.size(); ++part) {
      tensors_[mapping.hf[part]] = {info.dtype, mapping.hf_shape(part)};
      by_name_[mapping.hf[part]] = {&mapping, part};
      order_.push_back(mapping.hf[part]);
    }
  }
}

at::Tensor MegatronAsHf::read(const std::string& name) const {
  const auto& [mapping, part] = by_name_.at(name);
  if (mapping->hf.size() == 1) return cut_to(megatron_.read(mapping->megatron), mapping->shape);
  return read_all_rows(*this, name);
}

void MegatronAsHf::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto& [mapping, part] = by_name_.at(name);
  const uint64_t row = tensors_.at(name).row_bytes();
  const auto runs = mapping->layout.runs_of_part(part, range.first, range.count, mapping->rows());
  for (const auto& run : runs) {
    megatron_.read_rows(mapping->megatron, {run.fused_row, run.rows},
                        out + row * static_cast<uint64_t>(run.part_row - range.first));
  }
}

}  // namespace trestle
