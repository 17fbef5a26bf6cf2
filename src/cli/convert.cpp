// `trestle import` and `trestle export`: between Hugging Face and Megatron.
#include "bridge/convert.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "cli/commands.h"
#include "peft/merged.h"

namespace trestle {

namespace {

struct ConvertFlags {
  std::string hf_model, megatron, hf_output, adapter;
  bool adapter_only = false;
  std::string max_memory = "1.5GB", max_shard_size = "5GB", layout = "tf4";
  ConvertOptions options;

  void add_to(CLI::App& command) {
    command
        .add_option("--max-memory,--max_memory", max_memory,
                    "what the program may hold, such as 800MB; blocks are chosen to fit")
        ->capture_default_str();
  }
};

double gigabytes(uint64_t bytes) { return static_cast<double>(bytes) / 1e9; }

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
    user_error("give --megatron-path, --adapter-path or both");
  }
  const AdapterExport request{.megatron = flags.megatron,
                              .adapter = flags.adapter,
                              .hf_model = flags.hf_model,
                              .output = flags.hf_output,
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
  return export_checkpoint(flags.megatron, hf, flags.hf_output, flags.options);
}

}  // namespace

void add_import(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("import", "Hugging Face checkpoint -> Megatron checkpoint");
  auto flags = std::make_shared<ConvertFlags>();
  command->add_option("--hf-model,--hf_model", flags->hf_model, "HF directory to read")->required();
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
    report("imported", flags->megatron, *flags,
           [&] { return import_checkpoint(flags->hf_model, flags->megatron, flags->options); });
  });
}

void add_export(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("export", "Megatron checkpoint -> Hugging Face checkpoint");
  auto flags = std::make_shared<ConvertFlags>();
  command->add_option(
      "--hf-model,--hf_model", flags->hf_model,
      "HF directory with config, tokenizer and processor files; default: those in the run. Of "
      "adapters: their base model; default: the one that the run was trained on");
  command->add_option(
      "--megatron-path,--megatron_path", flags->megatron,
      "run directory to read: a model, or adapters, which are merged into their base");
  command->add_option("--adapter-path,--adapter_path", flags->adapter,
                      "PEFT folder or run of adapters to merge into the model");
  command->add_flag("--adapter-only,--adapter_only", flags->adapter_only,
                    "write the adapter alone, as a PEFT folder");
  command->add_option("--hf-path,--hf_path", flags->hf_output, "HF directory to write")->required();
  command
      ->add_option("--max-shard-size,--max_shard_size", flags->max_shard_size,
                   "a file is closed before it would pass this")
      ->capture_default_str();
  command
      ->add_option("--layout", flags->layout,
                   "spelling of names: tf4 (language_model.model.*, the official files), tf5 "
                   "(model.language_model.*); text-only models have one")
      ->check(CLI::IsMember({"tf4", "tf5"}))
      ->capture_default_str();
  flags->add_to(*command);
  command->callback([flags] {
    HfWriter::Options& hf = flags->options.hf;
    hf.max_shard_bytes = parse_bytes("--max-shard-size", flags->max_shard_size);
    hf.spelling =
        flags->layout == "tf5" ? HfSpelling::kModelFirst : HfSpelling::kLanguageModelFirst;
    report("exported", flags->hf_output, *flags, [&] { return run_export(*flags); });
  });
}

}  // namespace trestle
