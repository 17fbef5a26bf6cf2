#include "peft/merged.h"

#include <ATen/ATen.h>

#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hub.h"
#include "checkpoint/megatron.h"
#include "peft/peft_folder.h"
#include "peft/sites.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

bool is_adapter_run(const fs::path& path) {
  return is_megatron_checkpoint(path) && MegatronCheckpoint(path).is_adapter();
}

// The base that a run was trained on. A relative path may have been meant from where the run was
// started, which is most often the folder it lies in.
fs::path base_of_run(const fs::path& run) {
  const MegatronCheckpoint checkpoint(run);
  fs::path named = checkpoint.base_checkpoint().value_or("");
  if (named.empty()) {
    user_error("{} does not say which model its adapters belong to; name it with --hf-model",
               run.string());
  }
  if (is_there(named)) return named;
  const fs::path& directory = checkpoint.directory();
  for (const fs::path& start : {directory.parent_path(), directory.parent_path().parent_path()}) {
    if (named.is_relative() && is_there(start / named)) return start / named;
  }
  if (parse_hub_name(named.string())) {
    return resolve_model(named, fmt::format("{}: name the base of its adapters with --hf-model; "
                                            "checkpoint.pretrained_checkpoint",
                                            run.string()));
  }
  user_error("{} belongs to the model {}, which is not there; name it with --hf-model",
             run.string(), named.string());
}

struct Parts {
  fs::path adapter;
  /// Empty where only a PEFT folder is asked for and nothing names a base.
  fs::path base;
  /// Config, tokenizer and processor files of a base in Megatron's form.
  std::optional<fs::path> files;
};

Parts parts_of(const AdapterExport& request) {
  const auto files = request.hf_model.empty() ? std::nullopt : std::optional(request.hf_model);
  if (request.megatron.empty()) {
    if (request.adapter.empty()) user_error("there is no adapter to export; name it");
    fs::path base = request.hf_model;
    if (base.empty() && is_adapter_run(request.adapter)) {
      if (!request.adapter_only) base = base_of_run(request.adapter);
    } else if (base.empty()) {
      user_error("--adapter-path {} needs its base model; name it with --hf-model",
                 request.adapter.string());
    }
    return {request.adapter, base, {}};
  }
  require_directory(request.megatron, "--megatron-path");
  if (is_adapter_run(request.megatron)) {
    if (!request.adapter.empty()) {
      user_error(
          "--megatron-path {} and --adapter-path {} are both adapters; give one, and its base with "
          "--hf-model",
          request.megatron.string(), request.adapter.string());
    }
    fs::path base = request.hf_model;
    if (base.empty() && !request.adapter_only) base = base_of_run(request.megatron);
    return {request.megatron, base, {}};
  }
  if (request.adapter.empty()) {
    user_error("--megatron-path {} holds a model's weights, no adapter; leave --adapter-only out",
               request.megatron.string());
  }
  return {request.adapter, request.megatron, files};
}

// A PEFT folder needs no weights of the base, and of its config the sizes only.
ModelConfig config_for_folder(const Parts& parts) {
  if (parts.files) return read_hf_config(*parts.files);
  if (!parts.base.empty()) {
    return is_megatron_checkpoint(parts.base) ? OpenCheckpoint(parts.base).config()
                                              : read_hf_config(parts.base);
  }
  if (const auto embedded = MegatronCheckpoint(parts.adapter).hf_config()) {
    return parse_hf_config(*embedded, (parts.adapter / "run_config.yaml").string());
  }
  return OpenCheckpoint(base_of_run(parts.adapter)).config();
}

AdapterSummary write_folder(const Parts& parts, const AdapterExport& request, Conversion& written) {
  Ministral3 model(config_for_folder(parts), {at::kBFloat16, at::Device(at::kMeta)});
  const AdapterSummary summary = load_adapter(model, parts.adapter);
  save_peft_folder(model, request.output, {.base_model = request.base_name});
  for (const NamedPair& pair : named_pairs(model)) {
    for (const at::Tensor& tensor : {pair.a, pair.b, pair.magnitude}) {
      if (!tensor.defined()) continue;
      ++written.tensors;
      written.bytes += tensor.nbytes();
    }
  }
  return summary;
}

}  // namespace

MergedTensors::MergedTensors(const TensorSource& base, const Ministral3& adapters) : base_(base) {
  for (const AdapterSite& site : adapter_sites(adapters)) {
    if (site.linear->adapter()) adapters_[site.name + ".weight"] = site.linear->adapter();
  }
}

at::Tensor MergedTensors::read(const std::string& name) const {
  at::Tensor weight = base_.read(name);
  const auto adapter = adapters_.find(name);
  if (adapter == adapters_.end()) return weight;
  at::Tensor merged = adapter->second->merged(weight);
  changed_ = changed_ || !(at::equal(merged, weight) || adapter->second->changes_nothing(weight));
  return merged;
}

void MergedTensors::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  if (!adapters_.contains(name)) return base_.read_rows(name, range, out);
  if (last_name_ != name) {
    last_ = at::Tensor();  // before the next is made
    last_ = read(name).contiguous();
    last_name_ = name;
  }
  const at::Tensor rows = last_.narrow(0, range.first, range.count);
  std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
}

bool has_adapter(const AdapterExport& request) {
  return request.adapter_only || !request.adapter.empty() || is_adapter_run(request.megatron);
}

AdapterExported export_adapter(const AdapterExport& request, const ModelWriter& write) {
  const Parts parts = parts_of(request);
  AdapterExported done;
  done.adapter = parts.adapter;
  if (request.adapter_only) {
    done.summary = write_folder(parts, request, done.written);
    return done;
  }
  const OpenCheckpoint base(parts.base, parts.files);
  // Adapters in fp32, so that the merge rounds once.
  Ministral3 adapters(base.config(), {at::kFloat, at::Device(at::kMeta)});
  done.summary = load_adapter(adapters, parts.adapter);
  const MergedTensors merged(base.weights(), adapters);
  done.written = write(merged, base);
  done.summary.changes_nothing = !merged.changed();
  return done;
}

}  // namespace trestle
