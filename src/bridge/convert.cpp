#include "bridge/convert.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "checkpoint/megatron.h"
#include "checkpoint/megatron_writer.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// Copies every tensor of `list` from source to writer.
template <class Writer>
Conversion copy_all(const TensorSource& source, const TensorList& list, Writer& writer,
                    const ConversionProgress& progress) {
  Conversion done;
  for (const auto& [name, info] : list) {
    const at::Tensor tensor = source.read(name);
    writer.write(name, tensor);
    ++done.tensors;
    done.bytes += tensor.nbytes();
    if (progress) progress(name, done);
  }
  writer.commit();
  return done;
}

}  // namespace

Conversion import_checkpoint(const fs::path& hf, const fs::path& run,
                             const ConversionProgress& progress) {
  require_directory(hf, "--hf-model");
  const HfCheckpoint source(hf);
  const HfAsMegatron view(source, source.config());
  TensorList list;
  for (const Mapping& mapping : view.table()) {
    list.emplace_back(mapping.megatron, view.tensors().at(mapping.megatron));
  }
  MegatronWriter writer({.run = run,
                         .config = source.config(),
                         .hf_config = source.config_json(),
                         .tokenizer_files = side_files(hf)},
                        list);
  return copy_all(view, list, writer, progress);
}

Conversion write_hf(const TensorSource& megatron, const ModelConfig& config,
                    const Json& config_json, const std::vector<fs::path>& files,
                    const fs::path& output, HfWriter::Options options,
                    const ConversionProgress& progress) {
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
  if (!config.vision) options.spelling = HfSpelling::kTextOnly;
  HfWriter writer(output, list,
                  export_config(config_json, config.text.tie_word_embeddings, most->first), files,
                  options);
  return copy_all(view, list, writer, progress);
}

Conversion export_checkpoint(const fs::path& run, const std::optional<fs::path>& hf,
                             const fs::path& output, HfWriter::Options options,
                             const ConversionProgress& progress) {
  require_directory(run, "--megatron-path");
  if (!is_megatron_checkpoint(run)) {
    user_error(
        "--megatron-path {} is no Megatron checkpoint: it has neither a tracker file nor .metadata",
        run.string());
  }
  const OpenCheckpoint source(run, hf);
  return write_hf(source.weights(), source.config(), source.config_json(), source.side_files(),
                  output, options, progress);
}

}  // namespace trestle
