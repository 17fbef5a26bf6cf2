#include "bridge/views.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <set>

#include "base/error.h"

namespace trestle {

namespace {

const TensorInfo& require(const TensorSource& source, const std::string& name) {
  const auto found = source.tensors().find(name);
  if (found == source.tensors().end()) {
    user_error("tensor {} is missing from the checkpoint but its config asks for it", name);
  }
  return found->second;
}

void require_shape(const std::string& name, const std::vector<int64_t>& got,
                   const std::vector<int64_t>& wanted) {
  if (got == wanted) return;
  user_error(
      "tensor {} has shape [{}] but the config says [{}]; are config and weights of one model?",
      name, fmt::join(got, ", "), fmt::join(wanted, ", "));
}

void refuse_left_over(const TensorSource& source, const std::set<std::string>& used) {
  for (const auto& [name, info] : source.tensors()) {
    if (!used.contains(name)) {
      user_error("tensor {} [{}] has no place in the model that the config describes", name,
                 fmt::join(info.shape, ", "));
    }
  }
}

bool is_vocabulary(const Mapping& mapping) {
  return mapping.megatron.ends_with("word_embeddings.weight") ||
         mapping.megatron.ends_with("output_layer.weight");
}

}  // namespace

at::Tensor cut_to(const at::Tensor& tensor, const std::vector<int64_t>& shape) {
  return tensor.size(0) > shape[0] ? tensor.narrow(0, 0, shape[0]) : tensor;
}

HfAsMegatron::HfAsMegatron(const TensorSource& hf, const ModelConfig& config)
    : hf_(hf), table_(mappings(config)) {
  std::set<std::string> used;
  for (const Mapping& mapping : table_) {
    at::ScalarType dtype = at::kFloat;
    for (size_t part = 0; part < mapping.hf.size(); ++part) {
      const TensorInfo& info = require(hf, mapping.hf[part]);
      require_shape(mapping.hf[part], info.shape, mapping.hf_shape(part));
      if (part > 0 && info.dtype != dtype) {
        user_error("{} is {} but {} is {}; parts of one fused tensor must agree", mapping.hf[0],
                   toString(dtype), mapping.hf[part], toString(info.dtype));
      }
      dtype = info.dtype;
      used.insert(mapping.hf[part]);
    }
    tensors_[mapping.megatron] = {dtype, mapping.shape};
    by_name_[mapping.megatron] = &mapping;
  }
  // A tied checkpoint may repeat the embedding as its head; HfCheckpoint has checked that they are
  // equal.
  if (config.text.tie_word_embeddings) used.insert("lm_head.weight");
  refuse_left_over(hf, used);
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

MegatronAsHf::MegatronAsHf(const TensorSource& megatron, const ModelConfig& config)
    : megatron_(megatron), table_(mappings(config)) {
  std::set<std::string> used;
  for (const Mapping& mapping : table_) {
    const TensorInfo& info = require(megatron, mapping.megatron);
    std::vector<int64_t> got = info.shape;
    if (is_vocabulary(mapping) && !got.empty()) got[0] = std::min(got[0], mapping.shape[0]);
    require_shape(mapping.megatron, got, mapping.shape);
    used.insert(mapping.megatron);
    for (size_t part = 0; part < mapping.hf.size(); ++part) {
      tensors_[mapping.hf[part]] = {info.dtype, mapping.hf_shape(part)};
      by_name_[mapping.hf[part]] = {&mapping, part};
      order_.push_back(mapping.hf[part]);
    }
  }
  refuse_left_over(megatron, used);
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

at::Tensor read_all_rows(const TensorSource& source, const std::string& name) {
  const TensorInfo& info = source.tensors().at(name);
  at::Tensor out = at::empty(info.shape, info.dtype);
  source.read_rows(name, {0, info.rows()}, static_cast<std::byte*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace trestle
