#include "peft/peft_folder.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "peft/lora.h"
#include "peft/peft_config.h"
#include "peft/sites.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr std::string_view kRoot = "base_model.model.";
constexpr std::string_view kA = ".lora_A.weight";
constexpr std::string_view kB = ".lora_B.weight";

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

/// Canonical module -> its pair of tensors, by their names in the file.
using PairsByModule = std::map<std::string, StoredPair>;

/// The pairs of `known` modules. Throws UserError when a tensor is of no such module or alone.
PairsByModule collect_pairs(const SafetensorsFile& file, const std::vector<AdapterSite>& sites) {
  PairsByModule pairs;
  for (const AdapterSite& site : sites) {
    for (const std::string& module : site.hf) pairs[module] = {};
  }
  const std::string what = file.path().string();
  std::vector<std::string> strangers;
  for (const auto& [name, info] : file.tensors()) {
    if (name.find(".lora_magnitude_vector") != std::string::npos) {
      user_error("{} has {}: DoRA adapters are not supported yet", what, name);
    }
    const bool is_a = name.ends_with(kA);
    std::string module;
    if (is_a || name.ends_with(kB)) {
      module = name.substr(0, name.size() - kA.size());
      if (module.starts_with(kRoot)) module.erase(0, kRoot.size());
      module = canonical_name(module);
    }
    const auto place = pairs.find(module);
    if (place == pairs.end()) {
      strangers.push_back(name);
      continue;
    }
    std::string& factor = is_a ? place->second.a : place->second.b;
    if (!factor.empty()) user_error("{}: {} and {} are one tensor", what, factor, name);
    factor = name;
  }
  if (strangers.size() == file.tensors().size()) {
    user_error(
        "{}: none of its {} tensors belongs to this model's language tower, which has {}{}{}; "
        "it has {}",
        what, strangers.size(), kRoot, sites.front().hf.front(), kA,
        strangers.empty() ? "nothing" : list_some(strangers));
  }
  if (!strangers.empty()) {
    user_error("{}: {} of {} tensors belong to no projection of this model's language tower: {}",
               what, strangers.size(), file.tensors().size(), list_some(strangers));
  }
  std::erase_if(pairs,
                [](const auto& each) { return each.second.a.empty() && each.second.b.empty(); });
  for (const auto& [module, pair] : pairs) {
    if (pair.a.empty() || pair.b.empty()) {
      user_error("{}: {} has no partner; the file is incomplete", what,
                 pair.a.empty() ? pair.b : pair.a);
    }
  }
  return pairs;
}

bool is_target(const std::string& module, const std::vector<std::string>& targets) {
  return std::ranges::any_of(targets, [&](const std::string& each) {
    const std::string target = canonical_name(each);
    return module == target || module.ends_with("." + target);
  });
}

void require_all_targets(const PairsByModule& pairs, const std::vector<AdapterSite>& sites,
                         const std::vector<std::string>& targets, const fs::path& directory) {
  std::vector<std::string> missing;
  for (const AdapterSite& site : sites) {
    for (const std::string& module : site.hf) {
      if (!pairs.contains(module) && is_target(module, targets)) missing.push_back(module);
    }
  }
  if (!missing.empty()) {
    user_error(
        "{}: {} lists {} modules more in target_modules than {} has: {}; the adapter is incomplete",
        directory.string(), kConfigFile, missing.size(), kWeightsFile, list_some(missing));
  }
}

struct NamedPair {
  std::string module;  // canonical
  at::Tensor a, b;
};

std::vector<NamedPair> named_pairs(const Ministral3& model) {
  std::vector<NamedPair> pairs;
  for (const AdapterSite& site : adapter_sites(model)) {
    const auto& adapter = site.linear->adapter();
    if (!adapter) continue;
    if (const auto& whole = adapter->whole()) {
      const bool fused = site.hf.size() > 1;
      const auto rows = fused ? site.linear->layout().split(whole->b.detach(), 0)
                              : std::vector<at::Tensor>{whole->b.detach()};
      for (size_t i = 0; i < rows.size(); ++i)
        pairs.push_back({site.hf[i], whole->a.detach(), rows[i]});
    }
    for (size_t i = 0; i < adapter->pairs().size(); ++i) {
      const auto& pair = adapter->pairs()[i];
      if (pair) pairs.push_back({site.hf[i], pair->a.detach(), pair->b.detach()});
    }
  }
  return pairs;
}

}  // namespace

bool is_peft_folder(const fs::path& path) { return is_there(path / kConfigFile); }

void load_peft_folder(Ministral3& model, const fs::path& directory) {
  const fs::path config_path = directory / kConfigFile;
  const PeftConfig config = parse_peft_config(read_json(config_path), config_path.string());
  if (!is_there(directory / kWeightsFile) && is_there(directory / "adapter_model.bin")) {
    user_error("{} holds adapter_model.bin, a pickle that could run code; save it as {} with peft",
               directory.string(), kWeightsFile);
  }
  const SafetensorsFile file(directory / kWeightsFile);
  const std::vector<AdapterSite> sites = adapter_sites(model);
  const PairsByModule pairs = collect_pairs(file, sites);
  if (config.target_modules) require_all_targets(pairs, sites, *config.target_modules, directory);

  std::vector<StoredAdapter> adapters;
  for (const AdapterSite& site : sites) {
    StoredAdapter adapter{site, {}};
    for (const std::string& module : site.hf) {
      const auto pair = pairs.find(module);
      if (pair == pairs.end()) continue;
      adapter.pairs[site.hf.size() > 1 ? last_component(module) : ""] = pair->second;
    }
    if (!adapter.pairs.empty()) adapters.push_back(std::move(adapter));
  }
  attach_stored(model, adapters, file, config.numbers, file.path().string());
}

void save_peft_folder(const Ministral3& model, const fs::path& directory,
                      const PeftFolderOptions& options) {
  const LoraConfig config = lora_config_of(model);
  const HfSpelling spelling = model.config().vision ? options.spelling : HfSpelling::kTextOnly;
  const std::vector<NamedPair> pairs = named_pairs(model);
  TensorList list;
  std::vector<std::string> modules;
  for (const NamedPair& pair : pairs) {
    modules.push_back(spelled_name(pair.module, spelling));
    const std::string name = std::string(kRoot) + modules.back();
    list.emplace_back(name + std::string(kA), info_of(pair.a));
    list.emplace_back(name + std::string(kB), info_of(pair.b));
  }
  OutputDirectory output(directory, options.replace);
  write_json(
      output.path() / kConfigFile,
      make_peft_config({config.dim, config.alpha, config.dropout}, modules, options.base_model));
  SafetensorsWriter writer(output.path() / kWeightsFile, list);
  for (size_t i = 0; i < pairs.size(); ++i) {
    writer.write(list[2 * i].first, pairs[i].a.cpu().contiguous());
    writer.write(list[2 * i + 1].first, pairs[i].b.cpu().contiguous());
  }
  writer.commit();
  output.commit();
}

CheckReport check_peft_folder(const fs::path& directory) {
  CheckReport report{.kind = "PEFT adapter"};
  report.part([&] {
    const fs::path path = directory / kConfigFile;
    parse_peft_config(read_json(path), path.string());
  });
  std::optional<SafetensorsFile> file;
  if (!report.part([&] { file.emplace(directory / kWeightsFile); })) return report;
  report.tensors = file->tensors().size();
  for (const auto& [name, info] : file->tensors()) report.bytes += byte_size(info).value_or(0);
  check_factors(file->tensors(), kA, kB, file->path().string(), report);
  return report;
}

}  // namespace trestle
