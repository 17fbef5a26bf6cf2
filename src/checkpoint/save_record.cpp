#include "checkpoint/save_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/hf_layout.h"
#include "formats/yaml.h"
#include "megatron/checkpoint.h"
#include "megatron/integrity.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Names = std::set<std::string>;

constexpr const char *kSection = "trestle", *kRunConfig = "run_config.yaml";
constexpr const char* kTokenizerFolder = "tokenizer";
constexpr size_t kLineageDigits = 32;

const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

Names names_in(const Json* list) {
  Names names;
  if (list == nullptr || !list->is_array()) return names;
  for (const Json& each : *list) {
    if (each.is_string()) names.insert(each.get<std::string>());
  }
  return names;
}

// A save that was cut into shards has an index of them.
Names names_of_weights(const fs::path& folder) {
  if (is_there(folder / "adapter_config.json")) {
    return {"adapter_config.json", "adapter_model.safetensors"};
  }
  const HfFileNames form = hf_file_names(HfSpelling::kLanguageModelFirst);
  Names names = {form.config};
  if (!is_there(folder / form.index())) {
    names.insert(form.single());
    return names;
  }
  names.insert(form.index());
  for (const auto& [tensor, file] : read_weight_map(folder / form.index())) names.insert(file);
  return names;
}

// By folder, "" for the directory itself.
std::map<std::string, Names> names_written(const fs::path& iteration) {
  std::map<std::string, Names> written;
  if (is_there(iteration / kIntegrity)) {
    for (const auto& [name, hash] : integrity_manifest(iteration)) written[""].insert(name);
    written[""].insert(kIntegrity);
  }
  if (const auto record = save_record(iteration)) {
    written[kTokenizerFolder] = record->tokenizer;
    if (record->hf) {
      written[kHuggingFaceFolder] = names_of_weights(iteration / kHuggingFaceFolder);
      written[kHuggingFaceFolder].insert(record->hf->begin(), record->hf->end());
    }
  }
  return written;
}

std::vector<fs::path> entries(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> all;
  for (const auto& each : fs::directory_iterator(folder, error)) all.push_back(each.path());
  if (error) machine_error("cannot look into {}: {}", folder.string(), error.message());
  return all;
}

void remove_entry(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);  // of directories, empty ones alone
  if (error) machine_error("cannot remove {}: {}", path.string(), error.message());
}

}  // namespace

Json SaveRecord::to_json() const {
  Json json = {{"lineage", lineage}, {"step", step}, {"tokenizer", tokenizer}};
  if (hf) json["hf"] = *hf;
  return {{kSection, std::move(json)}};
}

std::string new_lineage() {
  std::random_device random;
  std::string digits;
  while (digits.size() < kLineageDigits) digits += fmt::format("{:08x}", random());
  return digits;
}

std::optional<SaveRecord> save_record(const Json& run_config) {
  const Json* section = find(run_config, kSection);
  const Json* lineage = section == nullptr ? nullptr : find(*section, "lineage");
  if (lineage == nullptr || !lineage->is_string()) return std::nullopt;
  const Json* step = find(*section, "step");
  SaveRecord record{.lineage = lineage->get<std::string>(),
                    .step = step != nullptr && step->is_number_integer() ? step->get<int64_t>() : 0,
                    .tokenizer = names_in(find(*section, kTokenizerFolder))};
  if (record.lineage.size() != kLineageDigits) return std::nullopt;
  if (const Json* hf = find(*section, kHuggingFaceFolder)) record.hf = names_in(hf);
  return record;
}

std::optional<SaveRecord> save_record(const fs::path& iteration) {
  if (!is_there(iteration / kRunConfig)) return std::nullopt;
  return save_record(read_yaml(iteration / kRunConfig));
}

fs::path foreign_entry(const fs::path& iteration) {
  const std::map<std::string, Names> written = names_written(iteration);
  const auto is_own = [&](const std::string& folder, const fs::path& path) {
    const auto names = written.find(folder);
    return names != written.end() && names->second.contains(path.filename()) &&
           fs::is_regular_file(fs::symlink_status(path));
  };
  for (const fs::path& path : entries(iteration)) {
    const std::string name = path.filename();
    if (!fs::is_directory(fs::symlink_status(path))) {
      if (!is_own("", path)) return path;
      continue;
    }
    if (!written.contains(name)) return path;
    for (const fs::path& inside : entries(path)) {
      if (!is_own(name, inside)) return inside;
    }
  }
  return {};
}

void remove_save(const fs::path& iteration) {
  if (const fs::path entry = foreign_entry(iteration); !entry.empty()) {
    user_error("{} is nothing that the save of {} wrote", entry.string(), iteration.string());
  }
  const auto turn = [](const fs::path& path) {
    const std::string name = path.filename();
    if (name == "metadata.json" || name == ".metadata") return 0;
    return name == kRunConfig ? 2 : name == kIntegrity ? 3 : 1;
  };
  std::vector<fs::path> all = entries(iteration);
  std::ranges::stable_sort(all, {}, turn);
  for (const fs::path& path : all) {
    if (fs::is_directory(path)) {
      // The index, by which the shards are known, last.
      std::vector<fs::path> inside = entries(path);
      std::ranges::stable_sort(inside, {}, [](const fs::path& each) {
        return each.filename().string().ends_with(".json");
      });
      for (const fs::path& each : inside) remove_entry(each);
    }
    remove_entry(path);
  }
  remove_entry(iteration);
}

}  // namespace trestle
