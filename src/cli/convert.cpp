// `trestle import` and `trestle export`: between Hugging Face's or Mistral's files and Megatron.
#include "bridge/convert.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/format_flag.h"
#include "peft/merged.h"

namespace trestle {

namespace {

struct ConvertFlags {
  std::string hf_model, megatron, hf_output, mistral_output, adapter;
  bool adapter_only = false;
  std::string max_memory = "1.5GB", max_shard_size, layout = "tf4";
  FormatFlag format;
  ConvertOptions options;

  const std::string& output() const { return hf_output.empty() ? mistral_output : hf_output; }

  void add_to(CLI::App& command) {
    command
        .add_option("--max-memory,--max_memory", max_memory,
                    "what the program may hold, such as 800MB; blocks are chosen to fit")
        ->capture_default_str();
    format.add_to(command);
  }
};

template <class Convert>
void report(const char* verb, const std::string& target, ConvertFlags& flags,
            const Convert& convert) {
  flags.options.max_memory = parse_bytes("--max-memory", flags.max_memory);
  flags.options.on_plan = [&](const StreamPlan& plan) {
    fmt::print(
        stderr,
        "{} tensors, {:.3f} GB, to {}: at most {:.2f} GB of memory, {:.1f} GB of disk free\n",
        plan.tensors, gigabytes(plan.bytes), target, gigabytes(plan.peak_bytes),
        gigabytes(plan.free_disk));
  };
  const auto start = std::chrono::steady_clock::now();
  const Conversion done = convert();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print(stderr, "{} {} tensors, {:.1f} MB in {:.1f} s ({:.0f} MB/s) to {}\n", verb,
             done.tensors, static_cast<double>(done.bytes) / 1e6, seconds,
             static_cast<double>(done.bytes) / 1e6 / std::max(seconds, 1e-3), target);
}

Conversion run_export(const ConvertFlags& flags) {
  if (flags.megatron.empty() && flags.adapter.empty()) {
    const OpenCheckpoint source(flags.hf_model, {}, flags.options.format);
    return write_hf(source.weights(), source.config(), source.config_json(), source.side_files(),
                    flags.output(), flags.options);
  }
  const AdapterExport request{.megatron = flags.megatron,
                              .adapter = flags.adapter,
                              .hf_model = flags.hf_model,
                              .output = flags.output(),
                              .adapter_only = flags.adapter_only};
  if (has_adapter(request)) {
    const AdapterExported done = export_adapter(request, flags.options);
    if (done.summary.changes_nothing) {
      fmt::print(stderr, "{}\n", nothing_changes_warning(done.adapter));
    }
    return done.written;
  }
  const auto hf =
      flags.hf_model.empty() ? std::nullopt : std::optional<std::filesystem::path>(flags.hf_model);
  return export_checkpoint(flags.megatron, hf, flags.output(), flags.options);
}

// What of the flags fits together; then how to write and what to read.
void settle_export(ConvertFlags& flags) {
  if (flags.hf_output.empty() == flags.mistral_output.empty()) {
    user_error("give one of --hf-path and --mistral-path, the directory to write");
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
  const std::string& weights = flags.megatron.empty() ? flags.hf_model : flags.megatron;
  if (flags.adapter.empty()) flags.options.format = flags.format.settle(weights);
}

}  // namespace

void add_import(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("import", "Hugging Face or Mistral checkpoint -> Megatron checkpoint");
  auto flags = std::make_shared<ConvertFlags>();
  command->add_option("--hf-model,--hf_model", flags->hf_model, "HF or Mistral directory to read")
      ->required();
  command->add_option("--megatron-path,--megatron_path", flags->megatron, "run directory to write")
      ->required();
  command
      ->add_option("--tensor-model-parallel-size,--tensor_model_parallel_size",
                   flags->options.tensor_parallel, "write the chunks of so many ranks")
      ->capture_default_str();
  command
      ->add_option("--pipeline-model-parallel-size,--pipeline_model_parallel_size",
                   flags->options.pipeline_parallel, "write the files of so many stages")
      ->capture_default_str();
  flags->add_to(*command);
  command->callback([flags] {
    flags->options.format = flags->format.settle(flags->hf_model);
    report("imported", flags->megatron, *flags,
           [&] { return import_checkpoint(flags->hf_model, flags->megatron, flags->options); });
  });
}

void add_export(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "export",
      "Megatron, Hugging Face or Mistral checkpoint -> Hugging Face or Mistral checkpoint");
  auto flags = std::make_shared<ConvertFlags>();
  command->add_option(
      "--hf-model,--hf_model", flags->hf_model,
      "HF or Mistral directory with config, tokenizer and processor files; default: those in the "
      "run. Without --megatron-path the weights too. Of adapters: their base model; default: the "
      "one that the run was trained on");
  command->add_option(
      "--megatron-path,--megatron_path", flags->megatron,
      "run directory to read: a model, or adapters, which are merged into their base");
  command->add_option("--adapter-path,--adapter_path", flags->adapter,
                      "PEFT folder or run of adapters to merge into the model");
  command->add_flag("--adapter-only,--adapter_only", flags->adapter_only,
                    "write the adapter alone, as a PEFT folder");
  command->add_option("--hf-path,--hf_path", flags->hf_output, "HF directory to write");
  CLI::Option* mistral = command->add_option(
      "--mistral-path,--mistral_path", flags->mistral_output,
      "directory to write as consolidated.safetensors, params.json and tekken.json");
  command->add_option("--max-shard-size,--max_shard_size", flags->max_shard_size,
                      "a file is closed before it would pass this; default: 5GB for --hf-path, one "
                      "file for --mistral-path");
  command
      ->add_option("--layout", flags->layout,
                   "spelling of names: tf4 (language_model.model.*, the official files), tf5 "
                   "(model.language_model.*); text-only models have one")
      ->check(CLI::IsMember({"tf4", "tf5"}))
      ->excludes(mistral)
      ->capture_default_str();
  flags->add_to(*command);
  command->callback([flags] {
    settle_export(*flags);
    report("exported", flags->output(), *flags, [&] { return run_export(*flags); });
  });
}

}  // namespace trestle
