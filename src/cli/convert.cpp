// `trestle import` and `trestle export`: between Hugging Face and Megatron.
#include "bridge/convert.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "peft/merged.h"

namespace trestle {

namespace {

struct Paths {
  std::string hf_model, megatron, hf_output, adapter;
  bool adapter_only = false;
};

template <class Convert>
void report(const char* verb, const std::string& target, const Convert& convert) {
  const auto start = std::chrono::steady_clock::now();
  const Conversion done = convert();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print(stderr, "{} {} tensors, {:.1f} MB in {:.1f} s to {}\n", verb, done.tensors,
             static_cast<double>(done.bytes) / 1e6, seconds, target);
}

Conversion run_export(const Paths& paths) {
  if (paths.megatron.empty() && paths.adapter.empty()) {
    user_error("give --megatron-path, --adapter-path or both");
  }
  const AdapterExport request{.megatron = paths.megatron,
                              .adapter = paths.adapter,
                              .hf_model = paths.hf_model,
                              .output = paths.hf_output,
                              .adapter_only = paths.adapter_only};
  if (has_adapter(request)) {
    const AdapterExported done = export_adapter(request);
    if (done.summary.changes_nothing) {
      fmt::print(stderr, "{}\n", nothing_changes_warning(done.adapter));
    }
    return done.written;
  }
  const auto hf =
      paths.hf_model.empty() ? std::nullopt : std::optional<std::filesystem::path>(paths.hf_model);
  return export_checkpoint(paths.megatron, hf, paths.hf_output);
}

}  // namespace

void add_import(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("import", "Hugging Face checkpoint -> Megatron checkpoint");
  auto paths = std::make_shared<Paths>();
  command->add_option("--hf-model,--hf_model", paths->hf_model, "HF directory to read")->required();
  command->add_option("--megatron-path,--megatron_path", paths->megatron, "run directory to write")
      ->required();
  command->callback([paths] {
    report("imported", paths->megatron,
           [&] { return import_checkpoint(paths->hf_model, paths->megatron); });
  });
}

void add_export(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("export", "Megatron checkpoint -> Hugging Face checkpoint");
  auto paths = std::make_shared<Paths>();
  command->add_option(
      "--hf-model,--hf_model", paths->hf_model,
      "HF directory with config, tokenizer and processor files; default: those in the run. Of "
      "adapters: their base model; default: the one that the run was trained on");
  command->add_option(
      "--megatron-path,--megatron_path", paths->megatron,
      "run directory to read: a model, or adapters, which are merged into their base");
  command->add_option("--adapter-path,--adapter_path", paths->adapter,
                      "PEFT folder or run of adapters to merge into the model");
  command->add_flag("--adapter-only,--adapter_only", paths->adapter_only,
                    "write the adapter alone, as a PEFT folder");
  command->add_option("--hf-path,--hf_path", paths->hf_output, "HF directory to write")->required();
  command->callback(
      [paths] { report("exported", paths->hf_output, [&] { return run_export(*paths); }); });
}

}  // namespace trestle
