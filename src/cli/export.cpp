// `trestle export`: a checkpoint of any form, adapters merged into it, -> Hugging Face's files,
// Mistral's, or llama.cpp's.
#include <fmt/format.h>

#include <chrono>
#include <limits>
#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "base/paths.h"
#include "bridge/compare.h"
#include "bridge/gguf.h"
#include "bridge/streamed.h"
#include "cli/commands.h"
#include "cli/convert.h"
#include "data/gguf_assets.h"
#include "hub/hub.h"
#include "megatron/checkpoint.h"
#include "peft/merged.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

GgmlType gguf_type(std::string_view name) {
  if (name == "f16") return GgmlType::kF16;
  return name == "q8_0" ? GgmlType::kQ8_0 : GgmlType::kBF16;
}

std::optional<WeightDtype> weight_dtype(std::string_view name) {
  if (name == "f32") return WeightDtype::kFloat32;
  if (name == "bf16") return WeightDtype::kBFloat16;
  if (name == "f16") return WeightDtype::kFloat16;
  return name == "fp8" ? std::optional(WeightDtype::kFp8) : std::nullopt;
}

struct ExportFlags : ConvertFlags {
  std::string hf_output, mistral_output, gguf_output;
  bool adapter_only = false, verify = true;
  std::string max_shard_size, layout = "tf4", gguf_type = "bf16", dtype;

  const std::string& output() const {
    if (!gguf_output.empty()) return gguf_output;
    return hf_output.empty() ? mistral_output : hf_output;
  }
};

// What of the flags fits together, and how files are laid out.
void settle(const Command& command, ExportFlags& flags) {
  const int outputs =
      !flags.hf_output.empty() + !flags.mistral_output.empty() + !flags.gguf_output.empty();
  if (outputs != 1) {
    user_error("give one of --hf-path, --mistral-path and --gguf-path, the directory to write");
  }
  const std::vector<std::string> inputs = {flags.megatron, flags.adapter, flags.hf_model};
  if (!flags.gguf_output.empty()) {
    require_output_folder(flags.gguf_output, "--gguf-path", inputs);
  } else {
    require_new_directory(flags.output(), flags.hf_output.empty() ? "--mistral-path" : "--hf-path",
                          inputs);
  }
  if (flags.adapter_only && flags.hf_output.empty()) {
    user_error("--adapter-only writes a PEFT folder; name it with --hf-path");
  }
  if (flags.adapter_only) {
    command.refuse_given({"--max-memory", "--max-shard-size", "--layout", "--format", "--dtype"},
                         "--adapter-only writes one small file as peft has it");
  }
  HfWriter::Options& hf = flags.options.hf;
  hf.spelling = flags.layout == "tf5" ? HfSpelling::kModelFirst : HfSpelling::kLanguageModelFirst;
  if (!flags.mistral_output.empty()) {
    hf.spelling = HfSpelling::kMistral;
    hf.max_shard_bytes = std::numeric_limits<uint64_t>::max();  // one file, as Mistral's are
  }
  flags.options.dtype = weight_dtype(flags.dtype);
  if (flags.options.dtype == WeightDtype::kFp8 && flags.hf_output.empty()) {
    user_error("--dtype fp8 is written with --hf-path only");
  }
  if (command.flag("--max-shard-size").is_given()) {
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

VerifyLimits limits_of(const OpenModel& model, const ExportFlags& flags) {
  return {.dtype = model.checkpoint().dtype(), .max_memory = flags.options.max_memory};
}

Conversion write_gguf(const OpenModel& model, const ExportFlags& flags) {
  const fs::path& files = model.checkpoint().assets();
  const GgufAssets assets = read_gguf_assets(files, model.config());
  if (assets.tokenizer.empty()) {
    fmt::print(stderr, "warning: {} has no tokenizer; the GGUF file will take and give ids only\n",
               files.string());
  }
  const std::string& given = !flags.adapter.empty()    ? flags.adapter
                             : !flags.megatron.empty() ? flags.megatron
                                                       : flags.hf_model;
  GgufOptions options{.type = gguf_type(flags.gguf_type), .name = name_of(given), .verify = {}};
  if (flags.verify) {
    options.verify = [&](const GgufFiles& written) {
      verify_and_report([&] {
        return verify_gguf(model.weights(), model.config(), limits_of(model, flags), options.type,
                           written);
      });
    };
  }
  return export_gguf(model.weights(), model.config(), assets, flags.gguf_output, options,
                     flags.options)
      .done;
}

void warn_of_nothing(const fs::path& adapter, bool changes_nothing) {
  if (changes_nothing) fmt::print(stderr, "{}\n", nothing_changes_warning(adapter));
}

Conversion run_export(const Command& command, ExportFlags& flags) {
  const ModelNames names = flags.source(flags.adapter_only);
  if (flags.adapter_only) {
    const AdapterWritten done = export_peft_folder(names, base_name_from_anywhere(flags.hf_model),
                                                   flags.output(), flags.verify);
    warn_of_nothing(done.adapter, done.summary.changes_nothing);
    if (flags.verify) {
      fmt::print(stderr, "verified: {} tensors read back equal\n", done.written.tensors);
    }
    return done.written;
  }
  const OpenModel model(names);
  if (!model.config().vision) {
    command.refuse_given({"--layout"}, "the model is of text only, whose names have one spelling");
  }
  if (flags.verify) {
    flags.later_bytes = streamed_bytes(model.config(), model.checkpoint().dtype());
    flags.options.verify = [&](const fs::path& written) {
      verify_and_report([&] {
        return verify_checkpoint(model.weights(), model.config(), limits_of(model, flags),
                                 flags.options.dtype, written);
      });
    };
  }
  const OpenCheckpoint& base = model.checkpoint();
  const Conversion done = flags.gguf_output.empty()
                              ? write_hf(model.weights(), base.config(), base.config_json(),
                                         base.side_files(), flags.output(), flags.options)
                              : write_gguf(model, flags);
  if (model.adapter()) warn_of_nothing(*model.adapter(), model.adapter_changes_nothing());
  return done;
}

}  // namespace

void add_export(Command app) {
  Command command = app.add_command(
      "export",
      "Megatron, Hugging Face or Mistral checkpoint -> Hugging Face, Mistral or GGUF files");
  auto flags = std::make_shared<ExportFlags>();
  flags->add_source_to(command);
  command.add_switch("--adapter-only,--adapter_only", flags->adapter_only,
                     "write the adapter alone, as a PEFT folder");
  Flag hf = command.add("--hf-path,--hf_path", flags->hf_output, "HF directory to write");
  command.add("--mistral-path,--mistral_path", flags->mistral_output,
              "directory to write as consolidated.safetensors, params.json, tekken.json");
  Flag gguf = command.add("--gguf-path,--gguf_path", flags->gguf_output,
                          "directory for llama.cpp's NAME-TYPE.gguf and mmproj-NAME-TYPE.gguf");
  command.add("--gguf-type,--gguf_type", flags->gguf_type, "type of the matrices there")
      .one_of({"f16", "bf16", "q8_0"})
      .needs(gguf)
      .show_default();
  command
      .add("--dtype", flags->dtype,
           "round weights to f32, bf16, f16, or fp8 (e4m3 with one scale a matrix, as the "
           "official Instruct files); default: as the source has them")
      .one_of({"f32", "bf16", "f16", "fp8"})
      .excludes(gguf);
  command
      .add("--max-shard-size,--max_shard_size", flags->max_shard_size,
           "a file is closed before it would pass this; default: 5GB for --hf-path, one "
           "file for --mistral-path")
      .excludes(gguf);
  command
      .add("--layout", flags->layout,
           "spelling of names: tf4 (language_model.model.*, the official files), tf5 "
           "(model.language_model.*); text-only models have one")
      .one_of({"tf4", "tf5"})
      .needs(hf)
      .show_default();
  command
      .add_switch("--verify,!--no-verify", flags->verify,
                  "before the result gets its name, read it back, compare every tensor and run a "
                  "short forward on source and result; default: on")
      .show_default("");
  flags->add_to(command);
  command.on_run([command, flags] {
    settle(command, *flags);
    flags->report("exported", flags->output(), [&] { return run_export(command, *flags); });
  });
}

}  // namespace trestle
