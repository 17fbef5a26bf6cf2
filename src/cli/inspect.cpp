// `trestle inspect`: what a checkpoint of any known kind holds, without reading its data; with
// --check, whether it is whole.
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "bridge/check.h"
#include "checkpoint/gguf.h"
#include "checkpoint/hf_checkpoint.h"
#include "checkpoint/hub.h"
#include "checkpoint/megatron.h"
#include "checkpoint/safetensors.h"
#include "cli/commands.h"
#include "cli/format_flag.h"
#include "peft/peft_folder.h"

namespace trestle {

namespace {

namespace fs = std::filesystem;

void print_tensors(const std::map<std::string, TensorInfo>& tensors, const auto& note) {
  uint64_t bytes = 0;
  int64_t parameters = 0;
  for (const auto& [name, info] : tensors) {
    fmt::print("{:<90} {}{}\n", one_line(name), describe(info), note(name));
    bytes += byte_size(info).value_or(0);
    int64_t count = 1;
    for (const int64_t size : info.shape) count *= size;
    parameters += count;
  }
  fmt::print("{} tensors, {:.2f} M parameters, {:.1f} MB\n", tensors.size(),
             static_cast<double>(parameters) / 1e6, static_cast<double>(bytes) / 1e6);
}

std::string no_note(const std::string&) { return ""; }

void inspect(const fs::path& path, const FormatFlag& format) {
  if (!fs::exists(path)) user_error("{} does not exist", path.string());
  if (fs::is_regular_file(path) && is_gguf(path)) {
    const GgufFile file(path);
    fmt::print("GGUF file\n");
    for (const auto& [key, value] : file.metadata()) {
      fmt::print("{:<60} {}\n", key, value.describe());
    }
    print_tensors(file.tensors(), [&](const std::string& name) {
      return fmt::format("  stored as {}, {} bytes", file.stored(name).name,
                         file.stored_bytes(name));
    });
    return;
  }
  if (fs::is_regular_file(path)) {
    fmt::print("safetensors file\n");
    print_tensors(SafetensorsFile(path).tensors(), no_note);
    return;
  }
  const CheckpointFormat form = format.settle(path);
  if (form == CheckpointFormat::kMegatron) {
    const MegatronCheckpoint checkpoint(path);
    fmt::print("Megatron checkpoint (torch_dist), iteration {}{}\n", checkpoint.iteration(),
               checkpoint.is_adapter() ? ", adapters only" : "");
    print_tensors(checkpoint.tensors(), no_note);
    if (!checkpoint.state().empty()) {
      fmt::print("training state:\n");
      print_tensors(checkpoint.state(), no_note);
    }
    return;
  }
  if (fs::exists(path / "adapter_model.safetensors")) {
    fmt::print("PEFT adapter\n");
    print_tensors(SafetensorsFile(path / "adapter_model.safetensors").tensors(), no_note);
    return;
  }
  const auto opened = open_model_directory(path, form);
  const HfCheckpoint& checkpoint = *opened;
  fmt::print("{} checkpoint, {} embeddings\n",
             form == CheckpointFormat::kMistral ? "Mistral" : "Hugging Face",
             checkpoint.config().text.tie_word_embeddings ? "tied" : "untied");
  print_tensors(checkpoint.tensors(), [&](const std::string& name) {
    const HfStored& stored = checkpoint.stored(name);
    std::string note = "  " + stored.file->path().filename().string();
    if (stored.scale_file != nullptr)
      note +=
          fmt::format(", stored as {} with {}", describe(stored.info), one_line(stored.scale_name));
    return note;
  });
}

CheckReport check_any(const fs::path& path, const FormatFlag& format) {
  if (!fs::exists(path)) user_error("{} does not exist", path.string());
  if (fs::is_regular_file(path)) return check_safetensors(path);
  const CheckpointFormat form = format.settle(path);
  if (form == CheckpointFormat::kMegatron) return check_megatron(path);
  if (is_peft_folder(path)) return check_peft_folder(path);
  return check_model_directory(path, form);
}

void check(const fs::path& path, const FormatFlag& format, bool as_json) {
  const CheckReport report = check_any(path, format);
  const size_t problems = report.problems.size();
  if (as_json) {
    const Json json = {{"path", path.string()}, {"kind", report.kind},
                       {"ok", problems == 0},   {"tensors", report.tensors},
                       {"bytes", report.bytes}, {"problems", report.problems}};
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    for (const std::string& problem : report.problems) fmt::print("{}\n", one_line(problem));
    if (problems == 0) fmt::print("ok: {} tensors, {} bytes\n", report.tensors, report.bytes);
  }
  std::fflush(stdout);
  if (problems > 0) {
    user_error("{} ({}): {} problem{}", path.string(), report.kind, problems,
               problems == 1 ? "" : "s");
  }
}

struct InspectFlags {
  std::string path;
  FormatFlag format;
  bool check = false, json = false;
};

}  // namespace

void add_inspect(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "list a checkpoint's tensors, shapes, dtypes and sizes");
  auto flags = std::make_shared<InspectFlags>();
  command
      ->add_option("path", flags->path,
                   "directory, safetensors or GGUF file, or ORG/NAME[@REVISION]")
      ->required();
  CLI::Option* check_flag = command->add_flag(
      "--check", flags->check, "validate it instead: one line a problem and exit status 2, or ok");
  command->add_flag("--json", flags->json, "the result of --check as JSON")->needs(check_flag);
  flags->format.add_to(*command);
  command->callback([flags] {
    const fs::path path = flags->format.resolve(flags->path, "path");
    if (flags->check) {
      check(path, flags->format, flags->json);
    } else {
      inspect(path, flags->format);
    }
  });
}

}  // namespace trestle
