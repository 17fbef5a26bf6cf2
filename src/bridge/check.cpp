#include "bridge/check.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "bridge/gguf_source.h"
#include "bridge/load.h"
#include "bridge/table.h"
#include "bridge/views.h"
#include "checkpoint/hf_checkpoint.h"
#include "checkpoint/packed_checkpoint.h"
#include "formats/fp8.h"
#include "formats/safetensors.h"
#include "megatron/checkpoint.h"
#include "megatron/integrity.h"
#include "megatron/names.h"
#include "pytorch/torch_save.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

void count(const std::map<std::string, TensorInfo>& tensors, CheckReport& report) {
  report.tensors += tensors.size();
  for (const auto& [name, info] : tensors) report.bytes += byte_size(info).value_or(0);
}

void add_disagreements(const TensorSource& source, const ModelConfig& config, Spoken spoken,
                       const fs::path& path, CheckReport& report) {
  for (const std::string& each :
       disagreements(source, mappings(config), spoken, config.text.tie_word_embeddings)) {
    report.problems.push_back(fmt::format("{}: {}", path.string(), each));
  }
}

// Tensors that are whole as far as types that no weight is read of can tell.
void note_not_weights(const HfCheckpoint& checkpoint, CheckReport& report) {
  const std::vector<HfStored>& found = checkpoint.not_weights();
  if (found.empty()) return;
  std::set<std::string> types;
  for (const HfStored& each : found) {
    const std::string all = describe(each.info);
    types.insert(all.substr(0, all.find(' ')));
  }
  report.notes.push_back(fmt::format(
      "{}: {} of {}, the first {}: sizes and places are checked; inspect and compare read them, "
      "nothing converts or loads them",
      checkpoint.directory().string(),
      found.size() == 1 ? "1 tensor" : fmt::format("{} tensors", found.size()),
      fmt::join(types, ", "), found.front().name));
}

// In name order, so that two runs print the same.
std::vector<fs::path> files_named(const fs::path& directory, std::string_view prefix,
                                  std::string_view suffix) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& each : fs::directory_iterator(directory, ignored)) {
    const std::string name = each.path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(suffix)) files.push_back(each.path());
  }
  std::ranges::sort(files);
  return files;
}

// Flat optimizer buffers have padding between parameters, and of a stacked key layers without data
// are those of another stage of the pipeline that was never saved: the table finds them missing.
TorchDistReader::Holes holes_of(const std::string& key, const TensorInfo& info) {
  if (!is_model_key(key) && info.shape.size() == 1) return TorchDistReader::Holes::kAnywhere;
  return split_stacked_key(key) ? TorchDistReader::Holes::kLeadingSlices
                                : TorchDistReader::Holes::kNone;
}

void check_archive(const fs::path& path) {
  const MappedFile file(path);
  const SavedArchive archive(file.bytes(), SavedArchive::Holds::kObject, path.string());
  archive.check_sums();
  archive.json();
}

}  // namespace

bool CheckReport::part(const std::function<void()>& run) {
  try {
    run();
    return true;
  } catch (const UserError& error) {
    problems.emplace_back(error.what());
    return false;
  }
}

void check_factors(const std::map<std::string, TensorInfo>& tensors, std::string_view in,
                   std::string_view out, std::string_view what, CheckReport& report) {
  for (const auto& [name, info] : tensors) {
    const bool is_in = name.ends_with(in);
    if (!is_in && !name.ends_with(out)) continue;
    const std::string_view module =
        std::string_view(name).substr(0, name.size() - (is_in ? in : out).size());
    const std::string other = fmt::format("{}{}", module, is_in ? out : in);
    const auto found = tensors.find(other);
    if (found == tensors.end()) {
      report.problems.push_back(fmt::format("{}: {} has no {}", what, name, other));
      continue;
    }
    const auto& in_shape = info.shape;
    const auto& out_shape = found->second.shape;
    if (is_in && (in_shape.size() != 2 || out_shape.size() != 2 || in_shape[0] != out_shape[1])) {
      report.problems.push_back(fmt::format("{}: {} {} and {} {} do not meet in a rank", what, name,
                                            describe(info), other, describe(found->second)));
    }
  }
}

CheckReport check_safetensors(const fs::path& path) {
  CheckReport report{.kind = "safetensors file"};
  report.part([&] { count(SafetensorsFile(path).tensors(), report); });
  return report;
}

CheckReport check_gguf(const fs::path& path) {
  CheckReport report{.kind = "GGUF file"};
  std::optional<GgufFile> file;
  if (!report.part([&] { file.emplace(path); })) return report;
  report.tensors = file->tensors().size();
  for (const auto& [name, info] : file->tensors()) report.bytes += file->stored_bytes(name);
  const auto architecture = file->metadata().find("general.architecture");
  if (architecture != file->metadata().end() && architecture->second.text() == "mistral3") {
    report.part([&] { GgufSource::open(path); });
  }
  return report;
}

CheckReport check_model_directory(const fs::path& directory, CheckpointFormat format) {
  const bool mistral = format == CheckpointFormat::kMistral;
  CheckReport report{.kind = mistral ? "Mistral checkpoint" : "Hugging Face checkpoint"};
  report.part([&] { side_files(directory); });
  report.part([&] { read_model_config(directory, format); });
  // Each shard by itself, so that all damaged ones are named.
  for (const fs::path& file :
       files_named(directory, mistral ? "consolidated" : "model", ".safetensors")) {
    report.part([&] { count(SafetensorsFile(file).tensors(), report); });
  }
  if (!report.problems.empty()) return report;
  std::unique_ptr<HfCheckpoint> checkpoint;
  if (!report.part([&] { checkpoint = open_model_directory(directory, format); })) return report;
  note_not_weights(*checkpoint, report);
  add_disagreements(*checkpoint, checkpoint->config(), Spoken::kHuggingFace, directory, report);
  for (const auto& [name, info] : checkpoint->tensors()) {
    const HfStored& stored = checkpoint->stored(name);
    if (stored.scale_file == nullptr) continue;
    report.part([&] {
      check_fp8_scale(stored.scale_file->read(stored.scale_name),
                      fmt::format("{}: tensor {}", stored.file->path().string(), stored.name));
    });
  }
  return report;
}

CheckReport check_packed(const fs::path& directory) {
  CheckReport report{.kind = "weights in panels"};
  report.part([&] { side_files(directory); });
  report.part([&] {
    const PackedCheckpoint checkpoint(directory);
    for (const auto& [name, info] : checkpoint.tensors()) {
      const auto held = checkpoint.panels(name);
      ++report.tensors;
      report.bytes +=
          held ? static_cast<uint64_t>(held->shape().bytes()) : byte_size(info).value_or(0);
    }
    for (const std::string& name : checkpoint.without_finite_scales()) {
      report.problems.push_back(fmt::format("{}: tensor {} has a scale that is no finite number",
                                            directory.string(), name));
    }
    OpenCheckpoint(directory, {}, CheckpointFormat::kPacked);
  });
  return report;
}

CheckReport check_megatron(const fs::path& path) {
  CheckReport report{.kind = "Megatron checkpoint"};
  std::optional<MegatronCheckpoint> opened;
  if (!report.part([&] { opened.emplace(path); })) return report;
  const MegatronCheckpoint& checkpoint = *opened;
  const TorchDistReader& reader = checkpoint.reader();

  report.part([&] {
    if (const auto tokenizer = checkpoint.tokenizer_directory()) side_files(*tokenizer);
  });
  count(reader.tensors(), report);
  for (const auto& [key, info] : reader.tensors()) {
    report.part([&] { reader.check(key, holes_of(key, info)); });
  }
  for (const std::string& key : reader.objects()) {
    report.part([&] { reader.check_object(key); });
  }
  for (const fs::path& file : files_named(checkpoint.directory(), "", ".pt")) {
    report.part([&] { check_archive(file); });
  }
  if (is_there(checkpoint.directory() / kIntegrity)) {
    report.part([&] {
      for (std::string& problem : integrity_problems(checkpoint.directory())) {
        report.problems.push_back(std::move(problem));
      }
    });
  }
  if (checkpoint.is_adapter()) {
    check_factors(checkpoint.tensors(), ".linear_in.weight", ".linear_out.weight",
                  checkpoint.directory().string(), report);
    return report;
  }
  report.part([&] {
    const fs::path source = checkpoint.directory() / "run_config.yaml";
    const std::optional<Json> json = checkpoint.hf_config();
    if (!json) return;
    ModelConfig config = parse_hf_config(*json, source.string());
    config.text.tie_word_embeddings = is_tied(checkpoint, *json);
    add_disagreements(checkpoint, config, Spoken::kMegatron, checkpoint.directory(), report);
  });
  return report;
}

}  // namespace trestle
