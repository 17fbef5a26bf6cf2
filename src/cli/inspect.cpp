// `trestle inspect`: what a checkpoint of any known kind holds, without reading its data unless
// hashes are asked for; with --check, whether it is whole; with --cpu, the processor instead.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/paths.h"
#include "base/standard_streams.h"
#include "base/text.h"
#include "bridge/check.h"
#include "bridge/compare.h"
#include "bridge/gguf_source.h"
#include "checkpoint/hf_checkpoint.h"
#include "checkpoint/packed_checkpoint.h"
#include "cli/commands.h"
#include "cpu/cpu.h"
#include "cpu/panel_sums.h"
#include "flags/format_flag.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "hub/hub.h"
#include "megatron/checkpoint.h"
#include "peft/peft_folder.h"

namespace trestle {

namespace {

namespace fs = std::filesystem;

// What a checkpoint holds, for people or as JSON.
class Listing {
 public:
  /// What else is said of a tensor: for people, and as members of its JSON.
  struct Note {
    std::string text;
    Json members;
  };
  using NoteOf = std::function<Note(const std::string& name)>;
  Listing(bool json, bool hashes) : json_(json), hashes_(hashes) {}

  /// "Hugging Face checkpoint, tied embeddings".
  void kind(const std::string& what) {
    report_["kind"] = what;
    if (!json_) fmt::print("{}\n", what);
  }
  void line(const std::string& text) {
    if (!json_) fmt::print("{}\n", text);
  }
  void metadata(const std::map<std::string, GgufValue>& values) {
    Json& report = report_["metadata"] = Json::object();
    for (const auto& [key, value] : values) {
      report[key] = value.to_json();
      line(fmt::format("{:<60} {}", key, value.describe()));
    }
  }
  /// Tensors of a section ("tensors", "training_state"); `source` reads them.
  void section(const char* title, const std::map<std::string, TensorInfo>& tensors,
               const TensorSource& source, const NoteOf& note_of = {}) {
    uint64_t bytes = 0;
    int64_t parameters = 0;
    report_[title] = Json::object();
    for (const auto& [name, info] : tensors) {
      const Note note = note_of ? note_of(name) : Note();
      const std::string hash = hashes_ ? sha256_of(source, name, info) : "";
      report_[title][name] = {{"dtype", describe_dtype(info)}, {"shape", info.shape}};
      if (note_of) report_[title][name].update(note.members);
      if (hashes_) report_[title][name]["sha256"] = hash;
      line(fmt::format("{:<90} {}{}{}", one_line(name), describe(info), note.text,
                       hashes_ ? "  sha256 " + hash : ""));
      bytes += byte_size(info).value_or(0);
      int64_t count = 1;
      for (const int64_t size : info.shape) count *= size;
      parameters += count;
    }
    line(fmt::format("{} tensors, {:.2f} M parameters, {:.1f} MB", tensors.size(),
                     static_cast<double>(parameters) / 1e6, static_cast<double>(bytes) / 1e6));
  }
  void print() const {
    if (json_) {
      fmt::print("{}\n", report_.dump(2, ' ', false, Json::error_handler_t::replace));
    }
  }

 private:
  static std::string describe_dtype(const TensorInfo& info) {
    const std::string all = describe(info);
    return all.substr(0, all.find(' '));
  }
  bool json_, hashes_;
  Json report_ = Json::object();
};

// A file that has tensors of its own, or a directory. Parts of a checkpoint are not it.
void require_checkpoint(const fs::path& path) {
  constexpr std::array<std::string_view, 4> kTexts = {".json", ".yaml", ".jinja", ".txt"};
  constexpr std::array<std::string_view, 4> kParts = {".distcp", ".pt", ".bin", ".metadata"};
  const std::string_view kind = kind_of(path);
  if (kind.empty()) user_error("{} does not exist", path.string());
  if (kind == "a directory") {
    require_directory(path, "path");
    if (is_gguf_model(path) && !is_peft_folder(path)) {
      user_error("{} is a directory of GGUF files; name one of them", path.string());
    }
    return;
  }
  require_regular_file(path);
  const std::string extension =
      path.has_extension() ? path.extension().string() : path.filename().string();
  if (std::ranges::find(kTexts, extension) != kTexts.end()) {
    user_error("{} holds no tensors; name the directory it lies in", path.string());
  }
  if (std::ranges::find(kParts, extension) != kParts.end()) {
    user_error("{} is a part of a checkpoint of torch's; name the directory it lies in",
               path.string());
  }
}

// Only a model's directory has forms to choose from.
void refuse_format(const fs::path& path, const FormatFlag& format) {
  if (fs::is_regular_file(path)) format.refuse(path.string() + " is a file, which has one form");
  if (is_peft_folder(path)) format.refuse(path.string() + " is a PEFT folder, which has one form");
}

void inspect(const fs::path& path, const FormatFlag& format, Listing& listing) {
  refuse_format(path, format);
  if (fs::is_regular_file(path) && is_gguf(path)) {
    const GgufFile file(path);
    listing.kind("GGUF file");
    listing.metadata(file.metadata());
    listing.section("tensors", file.tensors(), file, [&](const std::string& name) {
      const std::string type(file.stored(name).name);
      const uint64_t bytes = file.stored_bytes(name);
      return Listing::Note{fmt::format("  stored as {}, {} bytes", type, bytes),
                           {{"stored_as", type}, {"stored_bytes", bytes}}};
    });
    return;
  }
  if (fs::is_regular_file(path)) {
    const SafetensorsFile file(path);
    listing.kind("safetensors file");
    listing.section("tensors", file.tensors(), file);
    return;
  }
  const CheckpointFormat form = format.settle(path, /*takes_packed=*/true);
  if (form == CheckpointFormat::kPacked) {
    const PackedCheckpoint checkpoint(path);
    listing.kind(fmt::format("weights in panels, {}", panel_form_name(checkpoint.form())));
    listing.section("tensors", checkpoint.tensors(), checkpoint, [&](const std::string& name) {
      const auto held = checkpoint.panels(name);
      const std::string type(held ? panel_form_name(held->form()) : "");
      if (!held) return Listing::Note{"", Json::object()};
      return Listing::Note{fmt::format("  stored as {}, {} bytes", type, held->shape().bytes()),
                           {{"stored_as", type}, {"stored_bytes", held->shape().bytes()}}};
    });
    return;
  }
  if (form == CheckpointFormat::kMegatron) {
    const MegatronCheckpoint checkpoint(path);
    listing.kind(fmt::format("Megatron checkpoint (torch_dist), iteration {}{}",
                             checkpoint.iteration(),
                             checkpoint.is_adapter() ? ", adapters only" : ""));
    listing.section("tensors", checkpoint.tensors(), checkpoint);
    if (!checkpoint.state().empty()) {
      listing.line("training state:");
      listing.section("training_state", checkpoint.state(), checkpoint);
    }
    return;
  }
  if (fs::exists(path / "adapter_model.safetensors")) {
    const SafetensorsFile file(path / "adapter_model.safetensors");
    listing.kind("PEFT adapter");
    listing.section("tensors", file.tensors(), file);
    return;
  }
  const auto opened = open_model_directory(path, form);
  const HfCheckpoint& checkpoint = *opened;
  listing.kind(fmt::format("{} checkpoint, {} embeddings",
                           form == CheckpointFormat::kMistral ? "Mistral" : "Hugging Face",
                           checkpoint.config().text.tie_word_embeddings ? "tied" : "untied"));
  listing.section("tensors", checkpoint.tensors(), checkpoint, [&](const std::string& name) {
    const HfStored& stored = checkpoint.stored(name);
    const std::string file = stored.file->path().filename().string();
    Listing::Note note{"  " + file, {{"file", file}}};
    if (stored.scale_file != nullptr) {
      note.text +=
          fmt::format(", stored as {} with {}", describe(stored.info), one_line(stored.scale_name));
      note.members["stored_as"] = describe(stored.info);
      note.members["scale"] = stored.scale_name;
    }
    return note;
  });
}

CheckReport check_any(const fs::path& path, const FormatFlag& format) {
  refuse_format(path, format);
  if (fs::is_regular_file(path)) return is_gguf(path) ? check_gguf(path) : check_safetensors(path);
  const CheckpointFormat form = format.settle(path, /*takes_packed=*/true);
  if (form == CheckpointFormat::kPacked) return check_packed(path);
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
                       {"bytes", report.bytes}, {"problems", report.problems},
                       {"notes", report.notes}};
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    for (const std::string& problem : report.problems) fmt::print("{}\n", one_line(problem));
    for (const std::string& note : report.notes) fmt::print("note: {}\n", one_line(note));
    if (problems == 0) fmt::print("ok: {} tensors, {} bytes\n", report.tensors, report.bytes);
  }
  flush_output();
  if (problems > 0) {
    user_error("{} ({}): {} problem{}", path.string(), report.kind, problems,
               problems == 1 ? "" : "s");
  }
}

// What computes here, and which path that makes products in bf16 take.
void tell_of_processor(bool as_json) {
  const CpuFacts here = cpu_facts();
  const char* path = bf16_path() == Bf16Path::kNative ? "native" : "widened";
  if (as_json) {
    const Json json = {{"processor", here.name},
                       {"instructions", here.instructions},
                       {"onednn_limit", here.limit},
                       {"vectors", here.vectors},
                       {"threads", here.threads},
                       {"bf16_products", path},
                       {"weight_panels", panel_sums_here().name}};
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return;
  }
  fmt::print("processor     {}\ninstructions  {}\nlibtorch      loops in {}, {} thread{}\n",
             one_line(here.name), here.instructions, here.vectors, here.threads,
             here.threads == 1 ? "" : "s");
  if (!here.limit.empty()) fmt::print("oneDNN        held to {}\n", one_line(here.limit));
  fmt::print("{}\nweight panels: {}\n", describe_bf16_path(), panel_sums_here().name);
}

struct InspectFlags {
  std::string path;
  FormatFlag format;
  bool check = false, json = false, hashes = false, cpu = false;
};

void run_inspect(const InspectFlags& flags) {
  if (flags.cpu) {
    tell_of_processor(flags.json);
    return;
  }
  if (flags.path.empty()) user_error("path is required, or --cpu; see trestle inspect --help");
  const fs::path path = flags.format.resolve(flags.path, "path");
  require_checkpoint(path);
  if (flags.check) {
    check(path, flags.format, flags.json);
    return;
  }
  Listing listing(flags.json, flags.hashes);
  inspect(path, flags.format, listing);
  listing.print();
}

}  // namespace

void add_inspect(Command app) {
  Command command =
      app.add_command("inspect", "list a checkpoint's tensors, shapes, dtypes and sizes");
  auto flags = std::make_shared<InspectFlags>();
  const Flag path = command.add("path", flags->path,
                                "directory, safetensors or GGUF file, or ORG/NAME[@REVISION]");
  Flag check_flag = command.add_switch(
      "--check", flags->check, "validate it instead: one line a problem and exit status 2, or ok");
  command.add_switch("--json", flags->json, "the list, or the result of --check, as JSON");
  Flag hashes = command.add_switch("--sha256", flags->hashes,
                                   "read the tensors too and give the hash of each one's values");
  hashes.excludes(check_flag);
  flags->format.add_to(command);
  Flag cpu = command.add_switch(
      "--cpu", flags->cpu, "say what the processor has and which path bf16 takes on it instead");
  cpu.excludes(path).excludes(check_flag).excludes(hashes).excludes(command.flag("--format"));
  command.on_run([flags] { run_inspect(*flags); });
}

}  // namespace trestle
