#include "bridge/convert.h"

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "bridge/copy.h"
#include "checkpoint/megatron.h"
#include "checkpoint/megatron_writer.h"
#include "checkpoint/mistral_names.h"
#include "checkpoint/mistral_params.h"

namespace trestle {
namespace fs = std::filesystem;

Conversion import_checkpoint(const fs::path& hf, const fs::path& run,
                             const ConvertOptions& options) {
  require_directory(hf, "--hf-model");
  const auto opened = open_model_directory(hf, choose_format(hf, options.format).format);
  const HfCheckpoint& source = *opened;
  const HfAsMegatron view(source, source.config());
  TensorList list;
  for (const Mapping& mapping : view.table()) {
    list.emplace_back(mapping.megatron, view.tensors().at(mapping.megatron));
  }
  return copy_all(view, list, run, options, [&] {
    return std::make_unique<MegatronWriter>(
        MegatronOutput{.run = run,
                       .config = source.config(),
                       .hf_config = source.config_json(),
                       .tokenizer_files = side_files(hf),
                       .tensor_parallel = options.tensor_parallel,
                       .pipeline_parallel = options.pipeline_parallel},
        list);
  });
}

Conversion write_hf(const TensorSource& megatron, const ModelConfig& config,
                    const Json& config_json, const std::vector<fs::path>& files,
                    const fs::path& output, const ConvertOptions& options) {
  const MegatronAsHf view(megatron, config);
  TensorList list;
  std::map<at::ScalarType, int64_t> dtypes;
  for (const std::string& name : view.order()) {
    list.emplace_back(name, view.tensors().at(name));
    ++dtypes[list.back().second.dtype];
  }
  const auto most =
      std::max_element(dtypes.begin(), dtypes.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  HfWriter::Options layout = options.hf;
  if (layout.spelling == HfSpelling::kMistral) {
    const Json params = params_of_config(config, config_json);
    return copy_all(MistralRows(view, config), list, output, options, [&] {
      return std::make_unique<HfWriter>(output, list, params, files, layout);
    });
  }
  if (!config.vision) layout.spelling = HfSpelling::kTextOnly;
  return copy_all(view, list, output, options, [&] {
    return std::make_unique<HfWriter>(
        output, list, export_config(config_json, config.text.tie_word_embeddings, most->first),
        files, layout);
  });
}

Conversion export_checkpoint(const fs::path& run, const std::optional<fs::path>& hf,
                             const fs::path& output, const ConvertOptions& options) {
  require_megatron(run, "--megatron-path");
  const OpenCheckpoint source(run, hf, options.format);
  return write_hf(source.weights(), source.config(), source.config_json(), source.side_files(),
                  output, options);
}

}  // namespace trestle
