#include "peft/peft_folder.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "model/ministral3.h"
#include "peft/name_pattern.h"
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
// peft takes the ".weight" of its module off when it saves; files that keep it exist too.
constexpr std::string_view kMagnitude = ".lora_magnitude_vector";
constexpr std::string_view kMagnitudeWeight = ".lora_magnitude_vector.weight";

struct Role {
  std::string_view ending;
  std::string StoredPair::*name;
};
constexpr std::array<Role, 4> kRoles = {{{kA, &StoredPair::a},
                                         {kB, &StoredPair::b},
                                         {kMagnitude, &StoredPair::magnitude},
                                         {kMagnitudeWeight, &StoredPair::magnitude}}};

// The canonical name of a tensor's module, as the file spells it.
std::string module_of(const std::string& spelled) {
  return canonical_name(spelled.starts_with(kRoot) ? spelled.substr(kRoot.size()) : spelled);
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
    const auto role =
        std::ranges::find_if(kRoles, [&](const Role& each) { return name.ends_with(each.ending); });
    std::string module;
    if (role != kRoles.end()) {
      module = module_of(name.substr(0, name.size() - role->ending.size()));
    }
    const auto place = pairs.find(module);
    if (place == pairs.end()) {
      strangers.push_back(name);
      continue;
    }
    std::string& stored = place->second.*(role->name);
    if (!stored.empty()) user_error("{}: {} and {} are one tensor", what, stored, name);
    stored = name;
  }
  if (strangers.size() == file.tensors().size()) {
    user_error(
        "{}: none of its {} tensors belongs to a projection of this model, which has {}{}{}; "
        "it has {}",
        what, strangers.size(), kRoot, sites.front().hf.front(), kA,
        strangers.empty() ? "nothing" : list_some(strangers));
  }
  if (!strangers.empty()) {
    user_error("{}: {} of {} tensors belong to no projection of this model: {}", what,
               strangers.size(), file.tensors().size(), list_some(strangers));
  }
  std::erase_if(pairs, [](const auto& each) {
    const StoredPair& pair = each.second;
    return pair.a.empty() && pair.b.empty() && pair.magnitude.empty();
  });
  for (const auto& [module, pair] : pairs) {
    if (pair.a.empty() || pair.b.empty()) {
      const std::string& lonely = pair.a.empty() ? pair.b : pair.a;
      user_error("{}: {} has no partner; the file is incomplete", what,
                 lonely.empty() ? pair.magnitude : lonely);
    }
  }
  return pairs;
}

// Ranks and alphas as the config has them; where it says ranks by regular expressions, a tensor
// says its own.
void set_numbers(PairsByModule& pairs, const PeftConfig& config, const SafetensorsFile& file) {
  for (auto& [module, pair] : pairs) {
    const std::vector<int64_t>& shape = file.tensors().at(pair.a).shape;
    const int64_t stored = !shape.empty() && shape[0] > 0 ? shape[0] : config.rank;
    pair.rank = config.rank_of(module).value_or(stored);
    pair.alpha = config.scaling_alpha(module, pair.rank);
  }
}

// A bare name (q_proj) means the language model's module to whoever wrote the vision tower no
// adapter at all: Megatron Bridge's export lists its targets so, and peft's tensors of the tower
// would be there.
bool is_meant(const std::string& target, const std::string& module, const PairsByModule& pairs) {
  if (!names_module(target, module)) return false;
  const std::string component = module.substr(0, module.find('.') + 1);
  return component == "model." || canonical_name(target) == module ||
         std::ranges::any_of(pairs,
                             [&](const auto& each) { return each.first.starts_with(component); });
}

// Canonical modules that the config chooses and the file lacks, and those that the file has and the
// config does not choose.
struct Differences {
  std::vector<std::string> left_out, missing;
};

Differences differences(const PairsByModule& pairs, const std::vector<AdapterSite>& sites,
                        const PeftTargets& targets) {
  Differences found;
  for (const auto& [module, pair] : pairs) {
    if (!targets.allow(module)) found.left_out.push_back(module);
  }
  if (!targets.exact) return found;
  for (const AdapterSite& site : sites) {
    for (const std::string& module : site.hf) {
      const bool wanted = targets.allow(module) &&
                          std::ranges::any_of(*targets.named, [&](const std::string& target) {
                            return is_meant(target, module, pairs);
                          });
      if (wanted && !pairs.contains(module)) found.missing.push_back(module);
    }
  }
  return found;
}

// How the file spells its modules, which is how peft's model had them.
HfSpelling spelling_of(const PairsByModule& pairs) {
  const auto& [module, pair] = *pairs.begin();
  const std::string spelled = pair.a.substr(0, pair.a.size() - kA.size());
  for (const HfSpelling each : {HfSpelling::kModelFirst, HfSpelling::kLanguageModelFirst}) {
    if (spelled.ends_with(spelled_name(module, each))) return each;
  }
  return HfSpelling::kTextOnly;
}

// Whether an expression takes a module, under one of some spellings; nothing where it ran too long.
std::optional<bool> takes(const NamePattern& pattern, const std::string& module,
                          std::initializer_list<HfSpelling> spellings) {
  for (const HfSpelling each : spellings) {
    const auto found = pattern.matches(spelled_name(module, each));
    if (!found || *found) return found;
  }
  return false;
}

// Regular expressions are peft's own, of whole names. What is missed is told by the spelling of the
// file, which is that of peft's model; what is left out by any, as keys are renamed on the way to a
// file. Of a tower without any adapter nothing is missed: the model that it was made in may have
// had none. Nothing where an expression cannot be read here.
std::optional<Differences> differences_of_patterns(const PairsByModule& pairs,
                                                   const std::vector<AdapterSite>& sites,
                                                   const PeftTargets& targets) {
  std::optional<NamePattern> wanted, excluded;
  if (targets.pattern) wanted = NamePattern::compile(*targets.pattern);
  if (targets.excluded_pattern) excluded = NamePattern::compile(*targets.excluded_pattern);
  if ((targets.pattern && !wanted) || (targets.excluded_pattern && !excluded)) return std::nullopt;
  const HfSpelling own = spelling_of(pairs);
  Differences found;
  for (const AdapterSite& site : sites) {
    for (const std::string& module : site.hf) {
      const auto chosen = [&](std::initializer_list<HfSpelling> spellings) {
        return wanted ? takes(*wanted, module, spellings) : std::optional(targets.allow(module));
      };
      const auto taken_out = excluded ? takes(*excluded, module, {own}) : std::optional(false);
      const auto here = chosen({own});
      const auto anywhere =
          chosen({HfSpelling::kModelFirst, HfSpelling::kLanguageModelFirst, HfSpelling::kTextOnly});
      if (!here || !anywhere || !taken_out) return std::nullopt;
      const bool may = targets.allow(module) && !*taken_out;
      const std::string component = module.substr(0, module.find('.') + 1);
      const bool in_file = std::ranges::any_of(
          pairs, [&](const auto& each) { return each.first.starts_with(component); });
      if (*here && may && in_file && !pairs.contains(module)) found.missing.push_back(module);
      if (!(*anywhere && may) && pairs.contains(module)) found.left_out.push_back(module);
    }
  }
  std::ranges::sort(found.left_out);
  return found;
}

// What peft would load of the file is all of it, and all that it makes has its tensors there.
void require_targets(const PairsByModule& pairs, const std::vector<AdapterSite>& sites,
                     const PeftTargets& targets, const fs::path& directory) {
  // peft's word for every projection, of any model.
  const bool has_pattern =
      (targets.pattern && targets.pattern != "all-linear") || targets.excluded_pattern;
  auto found = has_pattern ? differences_of_patterns(pairs, sites, targets)
                           : std::optional(differences(pairs, sites, targets));
  if (!found) {
    fmt::print(stderr,
               "{}: a regular expression of {} cannot be read here, so that nothing says whether "
               "the adapter is whole\n",
               directory.string(), kConfigFile);
    return;
  }
  if (!found->left_out.empty()) {
    user_error(
        "{}: {} modules of {} are not among those that target_modules, exclude_modules and "
        "layers_to_transform of {} leave: {}; mend the list",
        directory.string(), found->left_out.size(), kWeightsFile, kConfigFile,
        list_some(found->left_out));
  }
  if (!found->missing.empty()) {
    user_error(
        "{}: {} lists {} modules more in target_modules than {} has: {}; the adapter is incomplete",
        directory.string(), kConfigFile, found->missing.size(), kWeightsFile,
        list_some(found->missing));
  }
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
  const WholeSites whole(model);
  const std::vector<AdapterSite>& sites = whole.sites;
  PairsByModule pairs = collect_pairs(file, sites);
  set_numbers(pairs, config, file);
  require_targets(pairs, sites, config.targets, directory);

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
  attach_stored(model, adapters, file, config.dropout, config.dora, file.path().string());
}

void save_peft_folder(const Ministral3& model, const fs::path& directory,
                      const PeftFolderOptions& options) {
  const HfSpelling spelling = model.config().vision ? options.spelling : HfSpelling::kTextOnly;
  const std::vector<NamedPair> pairs = named_pairs(model);
  TORCH_CHECK(!pairs.empty(), "the model has no adapter");
  std::vector<PeftModule> modules;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  bool dora = false;
  double dropout = 0;
  for (const NamedPair& pair : pairs) {
    modules.push_back({spelled_name(pair.module, spelling), pair.a.size(0), pair.alpha});
    const auto add = [&](std::string_view role, const at::Tensor& tensor) {
      tensors.emplace_back(fmt::format("{}{}{}", kRoot, modules.back().name, role), tensor);
    };
    add(kA, pair.a);
    add(kB, pair.b);
    dora = pair.magnitude.defined();
    if (dora) add(kMagnitude, pair.magnitude);
    dropout = pair.dropout;
  }
  TensorList list;
  for (const auto& [name, tensor] : tensors) list.emplace_back(name, info_of(tensor));
  OutputDirectory output(directory, options.replace);
  write_json(output.path() / kConfigFile,
             make_peft_config(modules, dropout, dora, options.base_model));
  SafetensorsWriter writer(output.path() / kWeightsFile, list);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
  if (options.verify) options.verify(output.path());
  output.commit();
}

namespace {

// What needs no model: the config's ranks, targets and scheme against the tensors.
void check_against(const PeftConfig& config, const SafetensorsFile& file, CheckReport& report) {
  std::vector<std::string> other_rank, left_out, other_scheme;
  for (const auto& [name, info] : file.tensors()) {
    if (!name.ends_with(kA)) continue;
    const std::string stem = name.substr(0, name.size() - kA.size());
    const std::string module = module_of(stem);
    const int64_t rank = info.rows();
    if (config.rank_of(module).value_or(rank) != rank) other_rank.push_back(name);
    if (!config.targets.allow(module)) left_out.push_back(stem);
    const bool has_magnitude = file.tensors().contains(stem + std::string(kMagnitude)) ||
                               file.tensors().contains(stem + std::string(kMagnitudeWeight));
    if (has_magnitude != config.dora) other_scheme.push_back(stem);
  }
  const auto tell = [&](const std::vector<std::string>& names, const std::string& said) {
    if (names.empty()) return;
    report.problems.push_back(
        fmt::format("{}: {} {}: {}", file.path().string(), names.size(), said, list_some(names)));
  };
  tell(other_rank, fmt::format("tensors have another rank than {} says", kConfigFile));
  tell(left_out, fmt::format("modules are of those that {} leaves out", kConfigFile));
  tell(other_scheme, fmt::format("modules have {} magnitude, and {} says use_dora={}",
                                 config.dora ? "no" : "a", kConfigFile, config.dora));
}

}  // namespace

CheckReport check_peft_folder(const fs::path& directory) {
  CheckReport report{.kind = "PEFT adapter"};
  std::optional<PeftConfig> config;
  report.part([&] {
    const fs::path path = directory / kConfigFile;
    config = parse_peft_config(read_json(path), path.string());
  });
  std::optional<SafetensorsFile> file;
  if (!report.part([&] { file.emplace(directory / kWeightsFile); })) return report;
  report.tensors = file->tensors().size();
  for (const auto& [name, info] : file->tensors()) report.bytes += byte_size(info).value_or(0);
  check_factors(file->tensors(), kA, kB, file->path().string(), report);
  if (config) check_against(*config, *file, report);
  return report;
}

}  // namespace trestle
