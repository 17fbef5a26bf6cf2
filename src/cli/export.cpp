// `trestle export`: a checkpoint of any form, adapters merged into it, -> Hugging Face's files,
// Mistral's, or llama.cpp's.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <limits>
#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "bridge/gguf.h"
#include "checkpoint/hub.h"
#include "checkpoint/megatron.h"
#include "cli/commands.h"
#include "cli/convert.h"
#include "data/gguf_assets.h"
#include "peft/merged.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

GgmlType gguf_type(std::string_view name) {
  if (name == "f16") return GgmlType::kF16;
  return name == "q8_0" ? GgmlType::kQ8_0 : GgmlType::kBF16;
}

struct ExportFlags : ConvertFlags {
  std::string adapter, hf_output, mistral_output, gguf_output;
  bool adapter_only = false;
  std::string max_shard_size, layout = "tf4", gguf_type = "bf16";

  const std::string& output() const {
    if (!gguf_output.empty()) return gguf_output;
    return hf_output.empty() ? mistral_output : hf_output;
  }
};

// What of the flags fits together, and how files are laid out.
void settle(ExportFlags& flags) {
  const int outputs =
      !flags.hf_output.empty() + !flags.mistral_output.empty() + !flags.gguf_output.empty();
  if (outputs != 1) {
    user_error("give one of --hf-path, --mistral-path and --gguf-path, the directory to write");
  }
  if (flags.adapter_only && flags.hf_output.empty()) {
    user_error("--adapter-only writes a PEFT folder; name it with --hf-path");
  }
  if (flags.megatron.empty() && flags.adapter.empty() && flags.hf_model.empty()) {
    user_error("give --megatron-path, --adapter-path or --hf-model, the checkpoint to read");
  }
  HfWriter::Options& hf = flags.options.hf;
  hf.spelling = flags.layout == "tf5" ? HfSpelling::kModelFirst : HfSpelling::kLanguageModelFirst;
  if (!flags.mistral_output.empty()) {
    hf.spelling = HfSpelling::kMistral;
    hf.max_shard_bytes = std::numeric_limits<uint64_t>::max();  // one file, as Mistral's are
  }
  if (!flags.max_shard_size.empty()) {
    hf.max_shard_bytes = parse_bytes("--max-shard-size", flags.max_shard_size);
  }
}

// What a model is called after where it lies: the name of its directory, or its name on the Hub.
std::string name_of(const std::string& given) {
  if (!fs::exists(given)) {
    if (const auto hub = parse_hub_name(given)) {
      return hub->repository.substr(hub->repository.find('/') + 1);
    }
  }
  return fs::canonical(given).filename();
}

Conversion write_gguf(const TensorSource& weights, const OpenCheckpoint& model,
                      const ExportFlags& flags) {
  const GgufAssets assets = read_gguf_assets(model.assets(), model.config());
  if (assets.tokenizer.empty()) {
    fmt::print(stderr, "warning: {} has no tokenizer; the GGUF file will take and give ids only\n",
               model.assets().string());
  }
  const std::string& given = !flags.adapter.empty()    ? flags.adapter
                             : !flags.megatron.empty() ? flags.megatron
                                                       : flags.hf_model;
  const GgufOptions options{.type = gguf_type(flags.gguf_type), .name = name_of(given)};
  return export_gguf(weights, model.config(), assets, flags.gguf_output, options, flags.options)
      .done;
}

Conversion run_export(ExportFlags& flags) {
  const auto write = [&](const TensorSource& weights, const OpenCheckpoint& model) {
    if (!flags.gguf_output.empty()) return write_gguf(weights, model, flags);
    return write_hf(weights, model.config(), model.config_json(), model.side_files(),
                    flags.output(), flags.options);
  };
  AdapterExport request{.megatron = flags.megatron,
                        .adapter = flags.adapter,
                        .hf_model = flags.hf_model,
                        .base_name = flags.hf_model,
                        .adapter_only = flags.adapter_only,
                        .output = flags.output()};
  if (!flags.adapter.empty()) request.adapter = resolve_model(flags.adapter, "--adapter-path");
  const bool adapter = has_adapter(request);
  if (!flags.hf_model.empty()) {
    // Its weights are read where nothing else has them: there is no run, or one of adapters.
    const bool weights = flags.megatron.empty() || (adapter && flags.adapter.empty());
    request.hf_model = weights && !flags.adapter_only
                           ? flags.format.resolve(flags.hf_model, "--hf-model")
                           : resolve_model(flags.hf_model, "--hf-model", HubFiles::kAssets);
  }
  if (adapter) {
    const AdapterExported done = export_adapter(request, write);
    if (done.summary.changes_nothing) {
      fmt::print(stderr, "{}\n", nothing_changes_warning(done.adapter));
    }
    return done.written;
  }
  const bool from_run = !flags.megatron.empty();
  const fs::path& weights = from_run ? request.megatron : request.hf_model;
  const auto files =
      from_run && !flags.hf_model.empty() ? std::optional(request.hf_model) : std::nullopt;
  const CheckpointFormat format = flags.format.settle(weights);
  if (from_run) require_megatron(weights, "--megatron-path");
  const OpenCheckpoint model(weights, files, format);
  return write(model.weights(), model);
}

}  // namespace

void add_export(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "export",
      "Megatron, Hugging Face or Mistral checkpoint -> Hugging Face, Mistral or GGUF files");
  auto flags = std::make_shared<ExportFlags>();
  command->add_option(
      "--hf-model,--hf_model", flags->hf_model,
      "HF or Mistral directory, or ORG/NAME[@REVISION], with config, tokenizer and processor "
      "files; default: those in the run. Without --megatron-path the weights too. Of adapters: "
      "their base model; default: the one that the run was trained on");
  command->add_option(
      "--megatron-path,--megatron_path", flags->megatron,
      "run directory to read: a model, or adapters, which are merged into their base");
  command->add_option(
      "--adapter-path,--adapter_path", flags->adapter,
      "PEFT folder, ORG/NAME[@REVISION] or run of adapters to merge into the model");
  command->add_flag("--adapter-only,--adapter_only", flags->adapter_only,
                    "write the adapter alone, as a PEFT folder");
  CLI::Option* hf =
      command->add_option("--hf-path,--hf_path", flags->hf_output, "HF directory to write");
  command->add_option("--mistral-path,--mistral_path", flags->mistral_output,
                      "directory to write as consolidated.safetensors, params.json, tekken.json");
  CLI::Option* gguf =
      command->add_option("--gguf-path,--gguf_path", flags->gguf_output,
                          "directory for llama.cpp's NAME-TYPE.gguf and mmproj-NAME-TYPE.gguf");
  command->add_option("--gguf-type,--gguf_type", flags->gguf_type, "type of the matrices there")
      ->check(CLI::IsMember({"f16", "bf16", "q8_0"}))
      ->needs(gguf)
      ->capture_default_str();
  command
      ->add_option("--max-shard-size,--max_shard_size", flags->max_shard_size,
                   "a file is closed before it would pass this; default: 5GB for --hf-path, one "
                   "file for --mistral-path")
      ->excludes(gguf);
  command
      ->add_option("--layout", flags->layout,
                   "spelling of names: tf4 (language_model.model.*, the official files), tf5 "
                   "(model.language_model.*); text-only models have one")
      ->check(CLI::IsMember({"tf4", "tf5"}))
      ->needs(hf)
      ->capture_default_str();
  flags->add_to(*command);
  command->callback([flags] {
    settle(*flags);
    flags->report("exported", flags->output(), [&] { return run_export(*flags); });
  });
}

}  // namespace trestle
