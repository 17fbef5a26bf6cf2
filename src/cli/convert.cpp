// `trestle import` and `trestle export`: between Hugging Face and Megatron.
#include "bridge/convert.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "cli/commands.h"

namespace trestle {

namespace {

struct Paths {
  std::string hf_model, megatron, hf_output;
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
      "HF directory with config, tokenizer and processor files; default: those in the run");
  command->add_option("--megatron-path,--megatron_path", paths->megatron, "run directory to read")
      ->required();
  command->add_option("--hf-path,--hf_path", paths->hf_output, "HF directory to write")->required();
  command->callback([paths] {
    const auto hf = paths->hf_model.empty() ? std::nullopt
                                            : std::optional<std::filesystem::path>(paths->hf_model);
    report("exported", paths->hf_output,
           [&] { return export_checkpoint(paths->megatron, hf, paths->hf_output); });
  });
}

}  // namespace trestle
