#include "peft/sites.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <optional>

#include "base/error.h"
#include "bridge/table.h"
#include "formats/safetensors.h"
#include "model/ministral3.h"
#include "parallel/plan.h"
#include "peft/pissa.h"

namespace trestle {

namespace {

constexpr std::string_view kHead = "language_model.output_layer";

// The pair of a part, or of the whole projection where `part` is empty.
LowRank& pair_of(const AdapterSite& site, const std::string& part) {
  const Adapter& adapter = *site.linear->adapter();
  if (part.empty()) return *adapter.whole();
  const auto parts = site.linear->layout().parts();
  const auto index = std::ranges::find(parts, part) - parts.begin();
  return *adapter.pairs().at(static_cast<size_t>(index));
}

int64_t rows_of(const Linear& linear, const std::string& part) {
  const int64_t rows = linear.weight.size(0);
  if (part.empty()) return rows;
  const auto parts = linear.layout().parts();
  const auto index = std::ranges::find(parts, part) - parts.begin();
  return linear.layout().part_size(static_cast<size_t>(index), rows);
}

void require_fit(const TensorSource& source, const std::string& name,
                 const std::vector<int64_t>& wanted, std::string_view what) {
  const TensorInfo& info = source.tensors().at(name);
  if (info.shape != wanted || !at::isFloatingType(info.dtype)) {
    user_error(
        "{}: tensor {} is {}, but its place in the model takes floats [{}]; is the adapter made "
        "for this model, with this rank?",
        what, name, describe(info), fmt::join(wanted, ", "));
  }
}

// The dtype that holds every tensor of a projection's adapter as it is stored.
at::ScalarType stored_dtype(const TensorSource& source,
                            const std::map<std::string, StoredPair>& pairs) {
  std::optional<at::ScalarType> all;
  for (const auto& [part, pair] : pairs) {
    for (const std::string& name : {pair.a, pair.b, pair.magnitude}) {
      if (name.empty()) continue;
      at::ScalarType dtype = source.tensors().at(name).dtype;
      if (c10::elementSize(dtype) < 2) dtype = at::kFloat;  // fp8 takes part in no arithmetic
      all = all ? at::promote_types(*all, dtype) : dtype;
    }
  }
  return *all;
}

}  // namespace

std::vector<AdapterSite> adapter_sites(const Ministral3& model) {
  std::vector<AdapterSite> sites;
  for (const auto& entry : model.named_modules("", /*include_self=*/false)) {
    const std::string& name = entry.key();
    auto* linear = dynamic_cast<Linear*>(entry.value().get());
    // The head is the embedding's partner, and tied to it in half of the models.
    if (linear == nullptr || name == kHead) continue;
    sites.push_back({name, linear, hf_modules(name)});
  }
  return sites;
}

WholeSites::WholeSites(const Ministral3& model) : sites(adapter_sites(model)) {
  if (!model.build().stage) return;
  rest = std::make_shared<Ministral3>(model.config(), model.build().shapes_of_whole());
  std::map<std::string, Linear*> here;
  for (const AdapterSite& site : sites) here[site.name] = site.linear;
  sites = adapter_sites(*rest);
  for (AdapterSite& site : sites) {
    const auto found = here.find(site.name);
    site.is_here = found != here.end();
    if (site.is_here) site.linear = found->second;
  }
}

std::string last_component(const std::string& module) {
  return module.substr(module.rfind('.') + 1);
}

void attach_adapter(const AdapterSite& site, const AdapterSpec& spec, at::ScalarType dtype,
                    std::optional<at::Device> device) {
  const at::Tensor& weight = site.linear->weight;
  const at::Device usual = site.linear->has_values() ? site.linear->device() : at::Device(at::kCPU);
  const auto options = at::TensorOptions().dtype(dtype).device(device.value_or(usual));
  auto adapter = std::make_shared<Adapter>(weight.size(1), weight.size(0), site.linear->layout(),
                                           spec, options);
  adapter->train(site.linear->is_training());
  site.linear->attach(std::move(adapter));
}

void attach_stored(Ministral3& model, const std::vector<StoredAdapter>& adapters,
                   const TensorSource& source, double dropout, bool dora, std::string_view what) {
  for (const auto& [site, pairs] : adapters) {
    for (const auto& [part, pair] : pairs) {
      const int64_t rows = rows_of(*site.linear, part);
      require_fit(source, pair.a, {pair.rank, site.linear->weight.size(1)}, what);
      require_fit(source, pair.b, {rows, pair.rank}, what);
      if (dora != !pair.magnitude.empty()) {
        user_error("{}: {} {}; the adapter is incomplete, or its config is another's", what,
                   dora ? pair.a : pair.magnitude,
                   dora ? "has no magnitude, which DoRA needs"
                        : "is DoRA's, but the config says that this is a LoRA");
      }
      if (dora) require_fit(source, pair.magnitude, {rows}, what);
    }
  }
  const at::NoGradGuard no_grad;
  for (const auto& [site, pairs] : adapters) {
    if (!site.is_here) continue;
    AdapterSpec spec{.pairs = {}, .dropout = dropout, .dora = dora};
    for (const auto& [part, pair] : pairs) spec.pairs.push_back({part, pair.rank, pair.alpha});
    const at::Tensor& weight = site.linear->weight;
    attach_adapter(site, spec,
                   site.linear->has_values() ? weight.scalar_type() : stored_dtype(source, pairs));
    for (const auto& [part, pair] : pairs) {
      LowRank& target = pair_of(site, part);
      target.a.copy_(source.read(pair.a));
      target.b.copy_(source.read(pair.b));
      if (dora) target.magnitude.copy_(source.read(pair.magnitude));
    }
  }
  train_adapters_only(model);
}

std::vector<NamedPair> named_pairs(const Ministral3& model) {
  std::vector<NamedPair> named;
  for (const AdapterSite& site : adapter_sites(model)) {
    const auto& adapter = site.linear->adapter();
    if (!adapter) continue;
    const auto rows = [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return std::vector<at::Tensor>(site.hf.size());
      if (site.hf.size() == 1) return std::vector<at::Tensor>{tensor.detach()};
      return site.linear->layout().split(tensor.detach(), 0);
    };
    if (const auto& whole = adapter->whole()) {
      const PlainPair plain = plain_pair(*whole);
      const auto b = rows(plain.b), magnitude = rows(whole->magnitude);
      for (size_t i = 0; i < site.hf.size(); ++i) {
        named.push_back({site.hf[i], plain.a, b[i], magnitude[i], plain.alpha, adapter->dropout()});
      }
    }
    for (size_t i = 0; i < adapter->pairs().size(); ++i) {
      const auto& pair = adapter->pairs()[i];
      if (!pair) continue;
      const PlainPair plain = plain_pair(*pair);
      named.push_back({site.hf[i], plain.a, plain.b,
                       adapter->is_dora() ? pair->magnitude.detach() : at::Tensor(), plain.alpha,
                       adapter->dropout()});
    }
  }
  return named;
}

void train_adapters_only(Ministral3& model) {
  for (const auto& entry : model.named_parameters()) {
    const std::string& name = entry.key();
    // What PiSSA started from stays as it is.
    entry.value().set_requires_grad(is_adapter_tensor(name) &&
                                    name.find(".initial_") == std::string::npos);
  }
}

std::string list_some(const std::vector<std::string>& names) {
  constexpr size_t kMost = 3;
  const size_t shown = std::min(names.size(), kMost);
  std::string text = fmt::format(
      "{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  if (names.size() > shown) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

}  // namespace trestle
