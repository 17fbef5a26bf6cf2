#include "peft/merged.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/hf_config.h"
#include "hub/hub.h"
#include "megatron/checkpoint.h"
#include "model/ministral3.h"
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

// Without `weights` the base's are not looked for.
Parts parts_of(const ModelNames& names, bool weights = true) {
  const auto files = names.hf_model.empty() ? std::nullopt : std::optional(names.hf_model);
  if (names.megatron.empty()) {
    if (names.adapter.empty())
      user_error(
          "there is no adapter to export; name it with --adapter-path, or its run with "
          "--megatron-path");
    fs::path base = names.hf_model;
    if (base.empty() && is_adapter_run(names.adapter)) {
      if (weights) base = base_of_run(names.adapter);
    } else if (base.empty()) {
      user_error("--adapter-path {} needs its base model; name it with --hf-model",
                 names.adapter.string());
    }
    return {names.adapter, base, {}};
  }
  require_directory(names.megatron, "--megatron-path");
  if (is_adapter_run(names.megatron)) {
    if (!names.adapter.empty()) {
      user_error(
          "--megatron-path {} and --adapter-path {} are both adapters; give one, and its base with "
          "--hf-model",
          names.megatron.string(), names.adapter.string());
    }
    fs::path base = names.hf_model;
    if (base.empty() && weights) base = base_of_run(names.megatron);
    return {names.megatron, base, {}};
  }
  if (names.adapter.empty()) {
    user_error("--megatron-path {} holds a model's weights, no adapter; leave --adapter-only out",
               names.megatron.string());
  }
  return {names.adapter, names.megatron, files};
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

// Every tensor of one side is the other's, bit for bit.
void require_equal(const Ministral3& wanted, const Ministral3& written, const fs::path& folder) {
  const std::vector<NamedPair> ours = named_pairs(wanted), theirs = named_pairs(written);
  const auto equal = [](const at::Tensor& a, const at::Tensor& b) {
    return a.defined() == b.defined() &&
           (!a.defined() || (a.scalar_type() == b.scalar_type() && at::equal(a, b)));
  };
  bool good = ours.size() == theirs.size();
  for (size_t i = 0; good && i < ours.size(); ++i) {
    good = ours[i].module == theirs[i].module && equal(ours[i].a, theirs[i].a) &&
           equal(ours[i].b, theirs[i].b) && equal(ours[i].magnitude, theirs[i].magnitude);
    if (!good) {
      machine_error(
          "{} reads back differently at {}; the disk is not to be trusted, or this is a "
          "bug: nothing was kept",
          folder.string(), ours[i].module);
    }
  }
  if (!good) {
    machine_error("{} reads back with {} adapted projections instead of {}; nothing was kept",
                  folder.string(), theirs.size(), ours.size());
  }
}

}  // namespace

MergedTensors::MergedTensors(const TensorSource& base, const Ministral3& adapters) : base_(base) {
  for (const AdapterSite& site : adapter_sites(adapters)) {
    if (site.linear->adapter()) adapters_[site.name + ".weight"] = site.linear->adapter();
  }
}

at::Tensor MergedTensors::read(const std::string& name) const {
  return adapters_.contains(name) ? read_all_rows(*this, name) : base_.read(name);
}

void MergedTensors::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  base_.read_rows(name, range, out);
  const auto found = adapters_.find(name);
  if (found == adapters_.end()) return;
  const Adapter& adapter = *found->second;
  const TensorInfo& info = tensors().at(name);
  at::Tensor rows =
      at::from_blob(out, {range.count, info.shape.at(1)}, at::TensorOptions(info.dtype));
  const at::Tensor merged = adapter.merged(rows, range.first);
  changed_ = changed_ || !(at::equal(merged, rows) || adapter.changes_nothing(rows, range.first));
  rows.copy_(merged);
}

bool has_adapter(const ModelNames& names) {
  return !names.adapter.empty() || is_adapter_run(names.megatron);
}

OpenModel::OpenModel(const ModelNames& names) {
  if (!has_adapter(names)) {
    const bool run = !names.megatron.empty();
    const auto files =
        run && !names.hf_model.empty() ? std::optional(names.hf_model) : std::nullopt;
    checkpoint_ = std::make_unique<OpenCheckpoint>(run ? names.megatron : names.hf_model, files,
                                                   names.format);
    return;
  }
  const Parts parts = parts_of(names);
  adapter_ = parts.adapter;
  checkpoint_ = std::make_unique<OpenCheckpoint>(parts.base, parts.files, names.format);
  // Adapters in fp32, so that the merge rounds once.
  adapters_ =
      std::make_unique<Ministral3>(checkpoint_->config(), Build{at::kFloat, at::Device(at::kMeta)});
  load_adapter(*adapters_, parts.adapter);
  merged_ = std::make_unique<MergedTensors>(checkpoint_->weights(), *adapters_);
}

const TensorSource& OpenModel::weights() const {
  return merged_ ? static_cast<const TensorSource&>(*merged_) : checkpoint_->weights();
}

std::string base_name_from_anywhere(const std::string& given) {
  if (given.empty() || hub_name_of(given, HubKind::kModel)) return given;
  const fs::path path = fs::absolute(given).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).string();  // "base/" is "base"
}

AdapterWritten export_peft_folder(const ModelNames& names, const std::string& base_name,
                                  const fs::path& output, bool verify) {
  const Parts parts = parts_of(names, /*weights=*/false);
  const Build meta{at::kBFloat16, at::Device(at::kMeta)};
  const ModelConfig config = config_for_folder(parts);
  Ministral3 model(config, meta);
  AdapterWritten done{
      .written = {}, .summary = load_adapter(model, parts.adapter), .adapter = parts.adapter};
  PeftFolderOptions options{.base_model = base_name};
  if (verify) {
    options.verify = [&](const fs::path& folder) {
      Ministral3 written(config, meta);
      load_adapter(written, folder);
      require_equal(model, written, output);
    };
  }
  save_peft_folder(model, output, options);
  for (const NamedPair& pair : named_pairs(model)) {
    for (const at::Tensor& tensor : {pair.a, pair.b, pair.magnitude}) {
      if (!tensor.defined()) continue;
      ++done.written.tensors;
      done.written.bytes += tensor.nbytes();
    }
  }
  return done;
}

}  // namespace trestle
