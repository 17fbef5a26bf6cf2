#include "bridge/convert.h"

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/paths.h"
#include "bridge/copy.h"
#include "checkpoint/mistral_names.h"
#include "checkpoint/mistral_params.h"
#include "checkpoint/packed_checkpoint.h"
#include "megatron/checkpoint.h"
#include "megatron/writer.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// The last steps of a conversion: what was written is looked at before it gets its name.
template <class Writer>
Conversion publish(Copied<Writer> copied, const ConvertOptions& options) {
  if (options.verify) options.verify(copied.writer->finish());
  copied.writer->commit();
  return copied.done;
}

// The dtype that a config states: that of most tensors which are no FP8.
at::ScalarType most_frequent(const TensorList& list) {
  std::map<at::ScalarType, int64_t> count;
  for (const auto& [name, info] : list) {
    if (info.dtype != at::kFloat8_e4m3fn && !info.shape.empty()) ++count[info.dtype];
  }
  return std::ranges::max_element(count, {}, [](const auto& each) { return each.second; })->first;
}

}  // namespace

Conversion import_checkpoint(const fs::path& hf, const fs::path& run,
                             const ConvertOptions& options) {
  require_directory(hf, "--hf-model");
  require_new_directory(run, "--megatron-path", {hf.string()});
  const auto opened = open_model_directory(hf, choose_format(hf, options.format).format);
  const HfCheckpoint& source = *opened;
  source.require_weights();
  const HfAsMegatron view(source, source.config());
  TensorList list;
  for (const Mapping& mapping : view.table()) {
    list.emplace_back(mapping.megatron, view.tensors().at(mapping.megatron));
  }
  const auto open = [&] {
    return std::make_unique<MegatronWriter>(
        MegatronOutput{.run = run,
                       .config = source.config(),
                       .hf_config = source.config_json(),
                       .tokenizer_files = side_files(hf),
                       .tensor_parallel = options.tensor_parallel,
                       .pipeline_parallel = options.pipeline_parallel},
        list);
  };
  return publish(copy_all(view, list, run, options, open), options);
}

Conversion write_hf(const TensorSource& megatron, const ModelConfig& config,
                    const Json& config_json, const std::vector<fs::path>& files,
                    const fs::path& output, const ConvertOptions& options) {
  const MegatronAsHf view(megatron, config);
  std::optional<Recast> recast;
  if (options.dtype) recast.emplace(view, *options.dtype);
  const TensorSource& source = recast ? static_cast<const TensorSource&>(*recast) : view;
  TensorList list;
  if (recast) {
    list = recast->list(view.order());
  } else {
    for (const std::string& name : view.order()) list.emplace_back(name, view.tensors().at(name));
  }
  HfWriter::Options layout = options.hf;
  if (layout.spelling == HfSpelling::kMistral) {
    TORCH_CHECK(options.dtype != WeightDtype::kFp8, "FP8 is written in Hugging Face's form only");
    const Json params = params_of_config(config, config_json);
    const auto open = [&] {
      return std::make_unique<HfWriter>(output, list, params, files, layout);
    };
    return publish(copy_all(MistralRows(source, config), list, output, options, open), options);
  }
  if (!config.vision) layout.spelling = HfSpelling::kTextOnly;
  Json stated = export_config(config_json, config.text.tie_word_embeddings, most_frequent(list));
  if (options.dtype == WeightDtype::kFp8) {
    stated["quantization_config"] = {{"quant_method", "fp8"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", nullptr},
                                     {"modules_to_not_convert", modules_without_fp8()}};
  }
  const auto open = [&] { return std::make_unique<HfWriter>(output, list, stated, files, layout); };
  return publish(copy_all(source, list, output, options, open), options);
}

Conversion write_packed(const TensorSource& megatron, const ModelConfig& config,
                        const Json& config_json, const std::vector<fs::path>& side_files,
                        PanelForm form, at::ScalarType dtype, const fs::path& output,
                        const ConvertOptions& options) {
  const PackedView source(megatron, config, dtype, form);
  const Json stated = export_config(config_json, config.text.tie_word_embeddings, dtype);
  const auto open = [&] {
    return std::make_unique<PackedWriter>(output, source, stated, side_files);
  };
  return publish(copy_all(source, source.list(), output, options, open), options);
}

Conversion export_checkpoint(const fs::path& run, const std::optional<fs::path>& hf,
                             const fs::path& output, const ConvertOptions& options) {
  require_megatron(run, "--megatron-path");
  const OpenCheckpoint source(run, hf, options.format);
  return write_hf(source.weights(), source.config(), source.config_json(), source.side_files(),
                  output, options);
}

}  // namespace trestle
