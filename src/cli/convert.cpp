#include "cli/convert.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"
#include "hub/hub.h"
#include "megatron/checkpoint.h"

namespace trestle {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void ConvertFlags::add_to(Command command) {
  command
      .add("--max-memory,--max_memory", max_memory,
           "what the program may hold, such as 800MB; blocks are chosen to fit")
      .show_default();
  format.add_to(command);
}

void verify_and_report(const std::function<Verified()>& verify) {
  const auto start = std::chrono::steady_clock::now();
  const Verified done = verify();
  const std::string logits =
      !done.no_logits.empty() ? "read back equal; no logits: " + done.no_logits
      : done.logits.max_error == 0
          ? "and the logits read back equal"
          : fmt::format(
                "are what their types hold; logits: KL {:.2g} nats, same likeliest token at {} "
                "of {} positions",
                done.logits.mean_kl, done.logits.same_top, done.logits.positions);
  fmt::print(stderr, "verified: {} tensors {}, {:.1f} s\n", done.tensors, logits,
             seconds_since(start));
}

void ConvertFlags::add_source_to(Command command) {
  command.add(
      "--hf-model,--hf_model", hf_model,
      "HF or Mistral directory, or ORG/NAME[@REVISION], with config, tokenizer and processor "
      "files; default: those in the run. Without --megatron-path the weights too. Of adapters: "
      "their base model; default: the one that the run was trained on");
  command.add("--megatron-path,--megatron_path", megatron,
              "run directory to read: a model, or adapters, which are merged into their base");
  command.add("--adapter-path,--adapter_path", adapter,
              "PEFT folder, ORG/NAME[@REVISION] or run of adapters to merge into the model");
}

ModelNames ConvertFlags::source(bool config_only) const {
  if (megatron.empty() && adapter.empty() && hf_model.empty()) {
    user_error("give --megatron-path, --adapter-path or --hf-model, the checkpoint to read");
  }
  ModelNames names{.megatron = megatron, .adapter = adapter, .hf_model = hf_model};
  if (!adapter.empty()) names.adapter = resolve_model(adapter, "--adapter-path");
  // Weights are read from hf_model where nothing else has them: no run, or one of adapters.
  const bool run_has_weights = !megatron.empty() && (!names.adapter.empty() || !has_adapter(names));
  if (!hf_model.empty()) {
    names.hf_model = run_has_weights || config_only
                         ? resolve_model(hf_model, "--hf-model", HubFiles::kAssets)
                         : format.resolve(hf_model, "--hf-model");
  }
  if (run_has_weights) require_megatron(names.megatron, "--megatron-path");
  if (config_only) {
    if (run_has_weights && !hf_model.empty() && !names.adapter.empty()) {
      user_error(
          "--megatron-path {} has no effect: --adapter-only reads of the base its config alone, "
          "which --hf-model {} has; leave one of them out",
          megatron, hf_model);
    }
    return names;
  }
  if (!run_has_weights && names.hf_model.empty()) {
    names.format = format.asked();  // of the base that the run names
    return names;
  }
  names.format = format.settle(run_has_weights ? names.megatron : names.hf_model);
  if (run_has_weights && !names.hf_model.empty() && names.format != CheckpointFormat::kMegatron) {
    user_error(
        "--hf-model {} has no effect: --megatron-path {} is read as {}, with its own config and "
        "tokenizer; leave one of them out",
        hf_model, megatron, format_name(*names.format));
  }
  return names;
}

void ConvertFlags::report(const char* verb, const std::string& target,
                          const std::function<Conversion()>& convert) {
  options.max_memory = parse_bytes("--max-memory", max_memory);
  options.on_plan = [&](const StreamPlan& plan) {
    fmt::print(
        stderr,
        "{} tensors, {:.3f} GB, to {}: at most {:.2f} GB of memory, {:.1f} GB of disk free\n",
        plan.tensors, gigabytes(plan.bytes), target,
        gigabytes(
            std::max(plan.peak_bytes, std::min(plan.peak_bytes + later_bytes, options.max_memory))),
        gigabytes(plan.free_disk));
  };
  const auto start = std::chrono::steady_clock::now();
  const Conversion done = convert();
  const double seconds = seconds_since(start);
  fmt::print(stderr, "{} {} tensors, {:.1f} MB in {:.1f} s ({:.0f} MB/s) to {}\n", verb,
             done.tensors, static_cast<double>(done.bytes) / 1e6, seconds,
             static_cast<double>(done.bytes) / 1e6 / std::max(seconds, 1e-3), target);
}

}  // namespace trestle
