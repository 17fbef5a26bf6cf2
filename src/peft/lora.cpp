#include "peft/lora.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/suggestion.h"
#include "megatron/checkpoint.h"
#include "model/ministral3.h"
#include "peft/megatron_adapter.h"
#include "peft/peft_folder.h"
#include "peft/pissa.h"
#include "peft/sites.h"
#include "peft/targets.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 5> kInitMethods = {"xavier", "kaiming", "normal", "zero",
                                                          "gaussian"};

void require_method(std::string_view key, const std::string& method) {
  if (std::ranges::find(kInitMethods, method) == kInitMethods.end()) {
    std::vector<std::string> known = {"pissa"};
    if (key != "lora_A_init_method") known.clear();
    known.insert(known.end(), kInitMethods.begin(), kInitMethods.end());
    user_error(
        "peft.{}={}: there are xavier, kaiming, normal, zero and gaussian, for A also pissa "
        "and pissa_niter_N{}",
        key, method, or_meant(method, known));
  }
}

/// Megatron Bridge's `ParallelLinearAdapter._get_init_fn`: xavier_normal_, kaiming_uniform_ with
/// a = sqrt(5) (peft's default), a normal of 0.2; and peft's gaussian, a normal of 1 / rank.
/// `weight` is [fan out, fan in]; numbers are drawn in fp32, so that
/// every dtype starts from the same.
/// A tensor rank draws the whole and keeps its share.
void initialize(const at::Tensor& weight, Split split, RankOf who, const std::string& method,
                int64_t rank, const at::Generator& generator) {
  const at::Tensor value = at::zeros(whole_sizes(weight.sizes(), split, who.ranks));
  const auto fan_out = static_cast<double>(value.size(0));
  const auto fan_in = static_cast<double>(value.size(1));
  if (method == "xavier") value.normal_(0, std::sqrt(2 / (fan_in + fan_out)), generator);
  if (method == "normal") value.normal_(0, 0.2, generator);
  if (method == "gaussian") value.normal_(0, 1 / static_cast<double>(rank), generator);
  // sqrt(6 / ((1 + a^2) fan_in)) = 1 / sqrt(fan_in)
  const double bound = 1 / std::sqrt(fan_in);
  if (method == "kaiming") value.uniform_(-bound, bound, generator);
  weight.copy_(share_of(value, split, who));
}

void initialize(const AdapterSite& site, const LoraConfig& config, const at::Generator& generator) {
  const RankOf who = site.linear->groups().tensor_rank();
  if (const auto iterations = pissa_iterations(config.lora_A_init_method)) {
    if (who.ranks > 1) {
      user_error(
          "peft.lora_A_init_method={} takes the whole of a weight, of which {} tensor ranks hold "
          "a part each; start otherwise or set model.tensor_model_parallel_size=1",
          config.lora_A_init_method, who.ranks);
    }
    start_pissa(site, *iterations, generator);
    return;
  }
  const auto both = [&](const LowRank& pair, const std::string& part) {
    const auto split = [&](std::string_view factor) {
      return split_of(fmt::format("{}{}{}{}.weight", site.name, kAdapterPart, part, factor));
    };
    initialize(pair.a, split("linear_in"), who, config.lora_A_init_method, pair.rank(), generator);
    initialize(pair.b, split("linear_out"), who, config.lora_B_init_method, pair.rank(), generator);
  };
  const Adapter& adapter = *site.linear->adapter();
  if (adapter.whole()) both(*adapter.whole(), "");
  const std::vector<std::string> parts = site.linear->layout().parts();
  for (size_t i = 0; i < adapter.pairs().size(); ++i) {
    if (adapter.pairs()[i]) both(*adapter.pairs()[i], parts[i] + ".");
  }
  if (adapter.is_dora() && site.is_here) {
    site.linear->adapter()->set_magnitude(site.linear->row_norms());
  }
}

// The key of ChosenParts.
std::string key_of(const AdapterSite& site) {
  return fmt::format("{}.{}", component_of(site.name), last_component(site.name));
}

// Every chosen projection is in this model, and some can use an update of such a rank.
void require_places(const std::vector<AdapterSite>& sites, const ChosenParts& parts, int64_t dim) {
  int64_t most = 0;
  std::set<std::string> there;
  for (const AdapterSite& site : sites) {
    if (!parts.contains(key_of(site))) continue;
    there.insert(key_of(site));
    const at::Tensor& weight = site.linear->weight;
    most = std::max(most, std::min(weight.size(0), weight.size(1)));
  }
  for (const auto& [key, list] : parts) {
    if (!there.contains(key)) {
      user_error("peft.target_modules: this model has no {}; it is a language model only", key);
    }
  }
  if (dim > most) {
    user_error(
        "peft.dim={} is over {}, the largest rank that an update of the chosen projections "
        "can have",
        dim, most);
  }
}

bool changes_nothing(const Ministral3& model) {
  return std::ranges::all_of(adapter_sites(model), [](const AdapterSite& site) {
    const auto& adapter = site.linear->adapter();
    if (!adapter) return true;
    // Only DoRA's depends on the base.
    if (!adapter->is_dora()) return adapter->changes_nothing(site.linear->weight);
    if (!site.linear->has_values()) return false;
    bool nothing = true;
    site.linear->for_dense_rows([&](int64_t first, const at::Tensor& rows) {
      nothing = nothing && adapter->changes_nothing(rows, first);
    });
    return nothing;
  });
}

AdapterSummary summarize(const Ministral3& model) {
  AdapterSummary summary;
  for (const AdapterSite& site : adapter_sites(model))
    summary.modules += site.linear->adapter() != nullptr;
  for (const at::Tensor& parameter : model.parameters()) {
    summary.total += parameter.numel();
    if (parameter.requires_grad()) summary.trainable += parameter.numel();
  }
  return summary;
}

}  // namespace

double LoraConfig::scaling_alpha() const {
  return use_rslora ? alpha * std::sqrt(static_cast<double>(dim)) : alpha;
}

bool LoraConfig::starts_with_pissa() const {
  return pissa_iterations(lora_A_init_method).has_value();
}

void LoraConfig::validate() const {
  check_values(*this, "peft.");
  if (shard_base && starts_with_pissa()) {
    user_error(
        "peft.shard_base=true and peft.lora_A_init_method={} contradict each other: the adapters "
        "are taken out of the base, which no rank has whole; leave one out",
        lora_A_init_method);
  }
  if (has_held_base() && scheme.empty()) {
    user_error(
        "peft.base_bits={} holds the weights in a form that cannot train; set peft.scheme to lora "
        "or dora, or peft.base_bits to 16",
        base_bits);
  }
  const bool pissa = starts_with_pissa();
  if (pissa && is_dora()) {
    user_error("peft.lora_A_init_method={} with peft.scheme=dora is not supported; use lora",
               lora_A_init_method);
  }
  if (pissa && has_held_base()) {
    user_error(
        "peft.lora_A_init_method={} moves the base, which peft.base_bits={} holds in a form that "
        "cannot move; start otherwise or hold it in 16",
        lora_A_init_method, base_bits);
  }
  if (!pissa) require_method("lora_A_init_method", lora_A_init_method);
  require_method("lora_B_init_method", lora_B_init_method);
  if (lora_A_init_method == "zero" && lora_B_init_method == "zero") {
    user_error(
        "peft.lora_A_init_method and lora_B_init_method are both zero; then no gradient "
        "ever reaches them");
  }
  if (target_modules.empty()) user_error("peft.target_modules is empty; name what to adapt");
  chosen_parts(target_modules);
}

namespace {

// Uninitialised; where `device` says, or else beside their projections. Returns the adapted ones,
// which live as long as the model and `whole`.
std::vector<AdapterSite> attach_all(const WholeSites& whole, const LoraConfig& config,
                                    std::optional<at::Device> device) {
  config.validate();
  const ChosenParts parts = chosen_parts(config.target_modules);
  const std::vector<AdapterSite>& sites = whole.sites;
  require_places(sites, parts, config.dim);
  std::vector<AdapterSite> adapted;
  for (const AdapterSite& site : sites) {
    const auto chosen = parts.find(key_of(site));
    if (chosen == parts.end()) continue;
    AdapterSpec spec{.pairs = {}, .dropout = config.dropout, .dora = config.is_dora()};
    for (const std::string& part : chosen->second) {
      spec.pairs.push_back({part, config.dim, config.scaling_alpha()});
    }
    if (spec.pairs.empty()) spec.pairs.push_back({"", config.dim, config.scaling_alpha()});
    attach_adapter(site, spec, site.linear->weight.scalar_type(), device);
    adapted.push_back(site);
  }
  return adapted;
}

}  // namespace

AdapterSummary attach_lora(Ministral3& model, const LoraConfig& config, uint64_t seed) {
  const at::NoGradGuard no_grad;
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  // An adapter starts from the numbers that the whole model's would: those of a part are drawn in
  // its place among the others'.
  const WholeSites whole(model);
  for (const AdapterSite& site : attach_all(whole, config, {})) {
    initialize(site, config, generator);
  }
  train_adapters_only(model);
  return summarize(model);
}

void attach_lora_shapes(Ministral3& model, const LoraConfig& config) {
  attach_all(WholeSites(model), config, at::Device(at::kMeta));
  train_adapters_only(model);
}

AdapterSummary load_adapter(Ministral3& model, const fs::path& path) {
  require_directory(path, "adapter");
  if (is_peft_folder(path)) {
    load_peft_folder(model, path);
  } else if (is_megatron_checkpoint(path)) {
    load_megatron_adapter(model, MegatronCheckpoint(path));
  } else {
    user_error(
        "{} holds no adapter: neither adapter_config.json nor a Megatron checkpoint is in it",
        path.string());
  }
  AdapterSummary summary = summarize(model);
  summary.changes_nothing = changes_nothing(model);
  return summary;
}

bool has_adapters(const Ministral3& model) {
  return std::ranges::any_of(adapter_sites(model), [](const AdapterSite& site) {
    return site.linear->adapter() != nullptr;
  });
}

LoraConfig lora_config_of(const Ministral3& model) {
  std::optional<LoraConfig> config;
  const auto add = [&](const Adapter& adapter, const LowRank& pair, const std::string& target) {
    if (!config) {
      config.emplace();
      config->scheme = adapter.is_dora() ? "dora" : "lora";
      config->dim = pair.rank();
      config->alpha = pair.alpha();
      config->dropout = adapter.dropout();
      if (has_initial(pair)) config->lora_A_init_method = "pissa";
      config->target_modules.clear();
    }
    if (config->dim != pair.rank() || config->alpha != pair.alpha()) {
      user_error(
          "the adapter has rank {} with alpha {} in one place, rank {} with alpha {} in another; a "
          "run takes one of each",
          config->dim, config->alpha, pair.rank(), pair.alpha());
    }
    auto& names = config->target_modules;
    if (std::ranges::find(names, target) == names.end()) names.push_back(target);
  };
  for (const AdapterSite& site : adapter_sites(model)) {
    const auto& adapter = site.linear->adapter();
    if (!adapter) continue;
    const auto target = [&](const std::string& name) { return target_name(site.name, name); };
    if (adapter->whole()) add(*adapter, *adapter->whole(), target(last_component(site.name)));
    for (size_t i = 0; i < adapter->pairs().size(); ++i) {
      if (!adapter->pairs()[i]) continue;
      add(*adapter, *adapter->pairs()[i], target(last_component(site.hf[i])));
    }
  }
  TORCH_CHECK(config, "the model has no adapter");
  return *config;
}

std::string nothing_changes_warning(const fs::path& adapter) {
  return fmt::format(
      "warning: this adapter changes nothing: {} leaves every weight as it is; was it trained?",
      adapter.string());
}

int64_t merge_adapters(Ministral3& model) {
  int64_t merged = 0;
  for (const AdapterSite& site : adapter_sites(model)) {
    if (!site.linear->adapter()) continue;
    site.linear->merge_adapter();
    ++merged;
  }
  return merged;
}

}  // namespace trestle
