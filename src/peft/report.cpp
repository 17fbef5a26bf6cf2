#include "peft/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/ministral3.h"
#include "peft/sites.h"
#include "peft/targets.h"

namespace trestle {

namespace {

std::vector<std::shared_ptr<LowRank>> pairs_of(const Adapter& adapter) {
  if (adapter.whole()) return {adapter.whole()};
  std::vector<std::shared_ptr<LowRank>> pairs;
  for (const auto& pair : adapter.pairs()) {
    if (pair) pairs.push_back(pair);
  }
  return pairs;
}

std::string module_of(const AdapterSite& site) {
  std::string name = last_component(site.name);
  const Adapter& adapter = *site.linear->adapter();
  if (adapter.whole()) return name;
  name += ':';
  const std::vector<std::string> parts = site.linear->layout().parts();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (adapter.pairs()[i]) name += " " + parts[i];
  }
  return name;
}

int64_t trained_parameters(const Adapter& adapter) {
  int64_t count = 0;
  for (const at::Tensor& each : adapter.parameters()) {
    if (each.requires_grad()) count += each.numel();
  }
  return count;
}

std::string dora_report(const DoraCost& cost) {
  const auto percent = [](double part, double whole) { return 100 * part / whole; };
  return fmt::format(
      "DoRA beside a LoRA of these ranks, computed from the shapes: {:L} magnitudes (+{:.1f} % "
      "parameters); a token costs +{:.1f} % in the adapted projections and {:L} bytes of kept "
      "outputs; the norms cost each forward what {:.0f} tokens do\n",
      cost.magnitudes,
      percent(static_cast<double>(cost.magnitudes), static_cast<double>(cost.lora_parameters)),
      percent(cost.added_per_token, cost.lora_per_token), cost.kept_per_token,
      cost.norms / cost.lora_per_token);
}

}  // namespace

std::vector<AdapterRow> adapter_rows(const Ministral3& model) {
  std::vector<AdapterRow> rows;
  for (const AdapterSite& site : adapter_sites(model)) {
    const auto& adapter = site.linear->adapter();
    if (!adapter) continue;
    const std::string component(component_of(site.name)), module = module_of(site);
    auto row = std::ranges::find_if(rows, [&](const AdapterRow& each) {
      return each.component == component && each.module == module;
    });
    if (row == rows.end()) row = rows.insert(rows.end(), {component, module});
    ++row->modules;
    for (const auto& pair : pairs_of(*adapter)) row->rank = std::max(row->rank, pair->rank());
    row->parameters += trained_parameters(*adapter);
  }
  return rows;
}

DoraCost dora_cost(const Ministral3& model) {
  DoraCost cost;
  for (const AdapterSite& site : adapter_sites(model)) {
    const auto& adapter = site.linear->adapter();
    if (!adapter || !adapter->is_dora()) continue;
    const int64_t out = site.linear->weight.size(0);
    const auto in = static_cast<double>(site.linear->weight.size(1));
    const double base = 2 * in * static_cast<double>(out);
    for (const auto& pair : pairs_of(*adapter)) {
      const auto rows = static_cast<double>(pair->b.size(0));
      const auto rank = static_cast<double>(pair->rank());
      cost.magnitudes += pair->magnitude.numel();
      cost.lora_parameters += pair->a.numel() + pair->b.numel();
      // W A^T, b (A A^T) and A A^T itself: Adapter::row_norms.
      cost.norms += 2 * rows * in * rank + 2 * rows * rank * rank + 2 * rank * rank * in;
      cost.lora_per_token += 2 * rank * (in + rows);
    }
    cost.lora_per_token += base;
    cost.added_per_token += static_cast<double>(out) + (adapter->dropout() > 0 ? base : 0);
    cost.kept_per_token += out * site.linear->weight.element_size();
  }
  return cost;
}

std::string adapter_report(const Ministral3& model) {
  std::string text = fmt::format("{:<10} {:<32} {:>7} {:>6} {:>14}\n", "component", "module",
                                 "modules", "rank", "parameters");
  for (const AdapterRow& row : adapter_rows(model)) {
    text += fmt::format("{:<10} {:<32} {:>7} {:>6} {:>14L}\n", row.component, row.module,
                        row.modules, row.rank, row.parameters);
  }
  const DoraCost cost = dora_cost(model);
  if (cost.magnitudes > 0) text += dora_report(cost);
  return text;
}

}  // namespace trestle
