#include "bridge/load.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cstring>
#include <map>
#include <tuple>

#include "base/error.h"
#include "bridge/load_quantized.h"
#include "bridge/upload.h"
#include "checkpoint/config_difference.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/packed_checkpoint.h"
#include "megatron/checkpoint.h"
#include "megatron/names.h"
#include "megatron/rank_share.h"
#include "model/ministral3.h"
#include "parallel/plan.h"

namespace trestle {
namespace fs = std::filesystem;

OpenCheckpoint::OpenCheckpoint(const fs::path& path,
                               const std::optional<fs::path>& config_directory,
                               std::optional<CheckpointFormat> format) {
  require_directory(path, "checkpoint");
  const CheckpointFormat form = choose_format(path, format).format;
  is_megatron_ = form == CheckpointFormat::kMegatron;
  if (form == CheckpointFormat::kPacked) {
    if (format != CheckpointFormat::kPacked) refuse_packed(path);
    auto packed = std::make_unique<PackedCheckpoint>(path);
    config_ = packed->config();
    config_json_ = packed->config_json();
    config_.text.tie_word_embeddings = is_tied(*packed, config_json_);
    require_whole(*packed, config_, path.string());
    assets_ = path;
    packed_ = packed->form();
    source_ = std::move(packed);
    weights_ = source_.get();
    return;
  }
  if (!is_megatron_) {
    auto hf = open_model_directory(path, form);
    hf->require_weights();
    config_ = hf->config();
    config_json_ = hf->config_json();
    assets_ = path;
    view_ = std::make_unique<HfAsMegatron>(*hf, config_);
    source_ = std::move(hf);
    weights_ = view_.get();
    return;
  }
  auto megatron = std::make_unique<MegatronCheckpoint>(path);
  if (megatron->is_adapter()) {
    user_error("{} holds adapters only; name its base model and give this as the adapter",
               path.string());
  }
  std::string config_file = (path / "run_config.yaml").string();
  if (config_directory) {
    std::tie(config_json_, config_file) = read_config_json(*config_directory);
  } else if (auto embedded = megatron->hf_config()) {
    config_json_ = *embedded;
  } else {
    user_error("{} says nothing of the model's config; name the HF model it came from",
               path.string());
  }
  config_ = parse_hf_config(config_json_, config_file);
  if (config_directory) require_same_model(*megatron, config_, config_file);
  config_.text.tie_word_embeddings = is_tied(*megatron, config_json_);
  require_whole(*megatron, config_, path.string());
  const auto tokenizer = megatron->tokenizer_directory();
  assets_ = config_directory ? *config_directory : tokenizer.value_or(path);
  side_files();  // refused before the weights are read
  source_ = std::move(megatron);
  weights_ = source_.get();
}

bool is_tied(const TensorSource& megatron, const Json& config_json) {
  return !megatron.tensors().contains("language_model.output_layer.weight") &&
         stated_tie(config_json) != false;
}

std::vector<fs::path> OpenCheckpoint::side_files() const { return trestle::side_files(assets_); }

at::ScalarType OpenCheckpoint::dtype() const {
  std::map<at::ScalarType, int64_t> count;
  for (const auto& [name, info] : weights_->tensors()) {
    if (!packed_ || !weights_->panels(name)) ++count[info.dtype];
  }
  const auto most = std::max_element(
      count.begin(), count.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first;
}

namespace {

void require_panels_of(const Linear& linear, const std::string& name, const PanelWeight& packed) {
  const int64_t rows = linear.weight.size(0), columns = linear.weight.size(1);
  const PanelForm form = *linear.panel_form();
  if (packed.form() == form && packed.rows() == rows && packed.columns() == columns) return;
  user_error(
      "tensor {} is packed in {} [{}, {}], the model takes {} [{}, {}]; make it again with "
      "trestle quantize",
      name, panel_form_name(packed.form()), packed.rows(), packed.columns(), panel_form_name(form),
      rows, columns);
}

}  // namespace

void load_weights(const torch::nn::Module& module, const TensorSource& megatron,
                  std::string_view prefix, std::string_view without) {
  const at::NoGradGuard no_grad;
  const auto linears = projections(module);
  std::optional<Upload> upload;  // of the first that is not on the CPU
  const auto upload_to = [&](at::Device device) -> Upload& {
    if (!upload) upload.emplace(make_transfer(device));
    return *upload;
  };
  for (const auto& entry : module.named_parameters()) {
    const std::string name = std::string(prefix) + entry.key();
    if (!without.empty() && name.starts_with(without)) continue;
    at::Tensor parameter = entry.value();
    const auto found = megatron.tensors().find(name);
    if (found == megatron.tensors().end()) {
      user_error("tensor {} is missing from the checkpoint but its config asks for it", name);
    }
    std::vector<int64_t> shape = found->second.shape;
    // More rows are a padded vocabulary.
    if (may_be_padded(name) && !shape.empty() && parameter.dim() > 0) {
      shape[0] = std::min(shape[0], parameter.size(0));
    }
    if (parameter.sizes() != shape) {
      user_error(
          "tensor {} has shape [{}] but the config says [{}]; are config and weights of one model?",
          name, fmt::join(found->second.shape, ", "), fmt::join(parameter.sizes(), ", "));
    }
    if (const auto each = linears.find(entry.key()); each != linears.end()) {
      Linear& linear = *each->second;
      if (linear.quantized() != nullptr) {
        quantize(megatron, name, parameter.scalar_type(), *linear.quantized());
        continue;
      }
      if (linear.panels() != nullptr) {
        if (const auto packed = megatron.panels(name)) {
          require_panels_of(linear, name, *packed);
          linear.hold(*packed);
        } else {
          pack(megatron, name, *linear.panels());
        }
        continue;
      }
      if (!linear.has_values()) {
        Upload* const way = linear.device().is_cpu() ? nullptr : &upload_to(linear.device());
        if (linear.keeps_fp8() && hold_fp8(megatron, name, linear, way)) continue;
        if (!linear.has_values()) linear.allocate();
        parameter = linear.weight;
      }
    }
    // Straight into its place where nothing is to be cast.
    const TensorInfo stored{found->second.dtype, shape};
    const bool cast = parameter.scalar_type() != stored.dtype || !parameter.is_contiguous();
    for_row_blocks(stored, [&](RowRange range) {
      const at::Tensor place = parameter.dim() == 0
                                   ? parameter.detach()
                                   : parameter.detach().narrow(0, range.first, range.count);
      if (!parameter.is_cpu()) {
        const uint64_t bytes = stored.row_bytes() * static_cast<uint64_t>(range.count);
        Upload& way = upload_to(parameter.device());
        read_rows_together(megatron, name, range, way.next(static_cast<int64_t>(bytes)));
        way.send(stored.dtype, place);
      } else if (cast) {
        place.copy_(read_range(megatron, name, range));
      } else {
        read_rows_together(megatron, name, range,
                           static_cast<std::byte*>(place.mutable_data_ptr()));
      }
    });
  }
  if (upload) upload->finish();
}

ModelTensors::ModelTensors(const Ministral3& model, at::ScalarType dtype) : dtype_(dtype) {
  for (const auto& entry : model.named_parameters()) {
    if (is_adapter_tensor(entry.key())) continue;
    parameters_[entry.key()] = entry.value().detach();
    tensors_[entry.key()] = {dtype, entry.value().sizes().vec()};
  }
}

at::Tensor ModelTensors::read(const std::string& name) const {
  return parameters_.at(name).to(at::kCPU, dtype_).contiguous();
}

void ModelTensors::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const at::Tensor& parameter = parameters_.at(name);
  const at::Tensor rows =
      (parameter.dim() == 0 ? parameter : parameter.narrow(0, range.first, range.count))
          .to(at::kCPU, dtype_)
          .contiguous();
  std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
}

namespace {

void fill(const Ministral3& model, const TensorSource& weights) {
  LanguageModel& text = model.language_model();
  if (text.base() == nullptr) return load_weights(model, weights);
  // Of what ranks share out one layer is here at a time.
  const std::string layers = "language_model.decoder.layers.";
  load_weights(model, weights, {}, layers);
  for (size_t i = 0; i < text.num_layers(); ++i) {
    if (!text.has_layer(i)) continue;
    load_weights(text.layer(i), weights, fmt::format("{}{}.", layers, i));
    text.share_out(i);
  }
}

}  // namespace

std::shared_ptr<Ministral3> load_model(const OpenCheckpoint& checkpoint, const Build& build) {
  auto model = std::make_shared<Ministral3>(checkpoint.config(), build);
  const RankOf who = build.groups.tensor_rank();
  if (who.ranks == 1) {
    fill(*model, checkpoint.weights());
  } else {
    fill(*model, RankShare(checkpoint.weights(), who, checkpoint.config().text.vocab_size));
  }
  return model;
}

}  // namespace trestle
