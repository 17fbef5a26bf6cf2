#include "run/huggingface_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/file_digest.h"
#include "bridge/convert.h"
#include "checkpoint/config_difference.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_layout.h"
#include "hub/hub.h"
#include "megatron/checkpoint.h"
#include "peft/merged.h"
#include "run/sampled_weights.h"
#include "tokenizer/tokenizer.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kSource = "checkpoint.hf_source_path";

// Of either of two files readers of a model need one.
struct Needed {
  std::string_view name, other;
};
constexpr Needed kTokenizer = {"tokenizer.json", "tekken.json"},
                 kProcessor = {"processor_config.json", "preprocessor_config.json"};

std::optional<fs::path> named(const std::vector<fs::path>& files, std::string_view name) {
  const auto found =
      std::ranges::find_if(files, [&](const fs::path& file) { return file.filename() == name; });
  return found == files.end() ? std::nullopt : std::optional(*found);
}

bool has_one(const std::vector<fs::path>& files, const Needed& needed) {
  return named(files, needed.name) || named(files, needed.other);
}

// What the base has, what is written has too.
void require_side_files(const std::vector<fs::path>& there, const std::string& given,
                        const OpenCheckpoint& base) {
  const std::vector<fs::path> ours = base.side_files();
  for (const Needed& needed : {kTokenizer, kProcessor}) {
    if (!has_one(ours, needed) || has_one(there, needed)) continue;
    user_error(
        "{}={} has no {} or {}, so that the saved folders would have none; put that of {} there, "
        "or leave the key out",
        kSource, given, needed.name, needed.other, base.assets().string());
  }
}

// Readers of what is saved take either: each that is there is opened, and told where the run's
// samples were made with another.
void check_tokenizer(const std::vector<fs::path>& there, const std::string& given,
                     const OpenCheckpoint& base) {
  const std::vector<fs::path> ours = base.side_files();
  for (const std::string_view name : {kTokenizer.name, kTokenizer.other}) {
    const auto theirs = named(there, name);
    if (!theirs) continue;
    Tokenizer::open(*theirs);
    const auto own = named(ours, name);
    if (!own) continue;
    const std::string is = sha256_of(*theirs), was = sha256_of(*own);
    if (is == was) continue;
    fmt::print(stderr,
               "{}={}: its {} (SHA-256 {}) is another than that of {} (SHA-256 {}), which the run "
               "trains with\n",
               kSource, given, name, is.substr(0, 12), base.assets().string(), was.substr(0, 12));
  }
  if (!has_one(there, kTokenizer)) {
    fmt::print(stderr,
               "{}={} has no tokenizer.json or tekken.json: who loads it finds none there\n",
               kSource, given);
  }
}

void require_same_config(const fs::path& files, const std::string& given,
                         const OpenCheckpoint& base) {
  if (!is_there(files / "config.json")) {
    user_error("{}={} has no config.json; name the Hugging Face folder of the run's model", kSource,
               given);
  }
  for (const ConfigDifference& each : config_differences(base.config(), read_hf_config(files))) {
    user_error("{}={} has {}={}, but the run's model has {}; name the model that it came from",
               kSource, given, each.key, each.theirs, each.ours);
  }
}

// What an adapter names as its base is loaded with it.
void require_same_weights(const fs::path& files, const std::string& given,
                          const OpenCheckpoint& base) {
  const OpenCheckpoint theirs(files, {}, CheckpointFormat::kHf);
  if (const auto difference = weights_difference(base.weights(), theirs.weights())) {
    user_error("{}={} is not the run's model: {}; name the model that it came from", kSource, given,
               *difference);
  }
}

// Whatever is wrong there, the key that named it is told.
template <class Check>
void with_key(const std::string& given, const Check& check) {
  try {
    check();
  } catch (const UserError& error) {
    const std::string_view what = error.what();
    if (what.starts_with(kSource)) throw;
    user_error("{}={}: {}", kSource, given, what);
  }
}

}  // namespace

std::optional<HuggingFaceFolder> huggingface_folder(const TrainConfig& config,
                                                    const OpenCheckpoint& base) {
  const CheckpointOptions& checkpoint = config.checkpoint;
  if (!checkpoint.also_save_hf_checkpoint) return std::nullopt;
  HuggingFaceFolder folder{.adapters = config.trains_adapters()};
  const std::string& source = checkpoint.hf_source_path;
  std::optional<fs::path> files;
  std::vector<fs::path> side = base.side_files();  // refused before the first step
  // Of an adapter a name on the Hub is what its readers will look for, who may have a network.
  const bool is_name = folder.adapters && hub_name_of(source, HubKind::kModel);
  if (!source.empty() && !is_name) {
    files = resolve_model(source, kSource, HubFiles::kAssets);
    require_directory(*files, kSource);
    with_key(source, [&] {
      require_same_config(*files, source, base);
      side = side_files(*files);
      if (!folder.adapters) require_side_files(side, source, base);
      check_tokenizer(side, source, base);
      if (folder.adapters) require_same_weights(*files, source, base);
    });
  }
  if (folder.adapters) {
    // A Megatron directory is no name that peft could look for.
    folder.base_name =
        base_name_from_anywhere(!source.empty()      ? source
                                : base.is_megatron() ? ""
                                                     : checkpoint.pretrained_checkpoint);
    return folder;
  }
  folder.files = std::move(files);
  for (const fs::path& file : side) {
    if (belongs_beside(file, HfSpelling::kLanguageModelFirst)) {
      folder.side_files.insert(file.filename().string());
    }
  }
  return folder;
}

void write_folder(const HuggingFaceFolder& folder, const fs::path& iteration) {
  const fs::path target = iteration / kHuggingFaceFolder;
  if (folder.adapters) {
    export_peft_folder({.megatron = iteration}, folder.base_name, target, /*verify=*/false);
    return;
  }
  // A block at a time beside what the run holds anyway.
  export_checkpoint(iteration, folder.files, target,
                    {.max_memory = std::numeric_limits<uint64_t>::max()});
}

}  // namespace trestle
