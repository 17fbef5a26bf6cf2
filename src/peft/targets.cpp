#include "peft/targets.h"

#include <c10/util/Exception.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/suggestion.h"

namespace trestle {

namespace {

/// One projection, or a part of one.
struct Place {
  std::string projection;
  /// The part that it adapts by itself; empty for the whole projection.
  std::string part;
};

/// Megatron's name of a projection and Hugging Face's of its parts, of all towers' layers.
struct Projection {
  const char* megatron;
  std::vector<std::string> parts;
};
const std::vector<Projection>& projections() {
  static const std::vector<Projection> list = {{"linear_qkv", {"q_proj", "k_proj", "v_proj"}},
                                               {"linear_proj", {"o_proj"}},
                                               {"linear_fc1", {"gate_proj", "up_proj"}},
                                               {"linear_fc2", {"down_proj"}}};
  return list;
}

struct Component {
  std::string_view name;
  /// How its modules' names begin.
  std::string_view root;
};
constexpr std::array<Component, 3> kComponents = {{{"lm", "language_model."},
                                                   {"vision", "vision_tower."},
                                                   {"projector", "multi_modal_projector."}}};

using Places = std::map<std::string, std::vector<Place>>;

// Every name with its component before it. The vision tower keeps Hugging Face's separate
// projections in Megatron too, so that a fused name means all of its parts.
Places make_targets() {
  Places targets;
  const auto add = [&](const std::string& component, const std::string& name, Place place) {
    targets[fmt::format("{}.{}", component, name)].push_back(place);
    // "*" takes Megatron's form where there is one.
    if (place.part.empty() && (component != "lm" || name == place.projection)) {
      std::vector<Place>& all = targets[fmt::format("{}.*", component)];
      const bool there = std::ranges::any_of(
          all, [&](const Place& each) { return each.projection == place.projection; });
      if (!there) all.push_back(std::move(place));
    }
  };
  for (const auto& [megatron, parts] : projections()) {
    add("lm", megatron, {megatron, ""});
    for (const std::string& part : parts) {
      add("lm", part, {megatron, parts.size() > 1 ? part : ""});
      add("vision", part, {part, ""});
      add("vision", megatron, {part, ""});
    }
  }
  for (const char* name : {"merging_layer", "linear_1", "linear_2"}) {
    add("projector", name, {name, ""});
  }
  return targets;
}

const Places& targets() {
  static const Places table = make_targets();
  return table;
}

std::string scoped(const std::string& target) {
  return target.find('.') == std::string::npos ? fmt::format("lm.{}", target) : target;
}

[[noreturn]] void refuse(const std::string& name) {
  std::vector<std::string> known;
  const bool has_component = name.find('.') != std::string::npos;
  for (const auto& [each, places] : targets()) {
    if (has_component) known.push_back(each);
    if (!has_component && each.starts_with("lm.")) known.push_back(each.substr(3));
  }
  user_error(
      "peft.target_modules: {} is no projection{}; {} (lm., vision. and projector. choose the part "
      "of the model)",
      name, has_component ? "" : " of the language model",
      did_you_mean(name, known, fmt::format("there are {}", fmt::join(known, ", "))));
}

}  // namespace

std::string_view component_of(std::string_view module) {
  for (const Component& each : kComponents) {
    if (module.starts_with(each.root)) return each.name;
  }
  TORCH_CHECK(false, module, " lies in no component");
}

ChosenParts chosen_parts(const std::vector<std::string>& target_modules) {
  ChosenParts chosen;
  std::map<std::string, std::string> named_by;
  for (const std::string& target : target_modules) {
    const auto found = targets().find(scoped(target));
    if (found == targets().end()) refuse(target);
    const std::string component = found->first.substr(0, found->first.find('.'));
    for (const auto& [projection, part] : found->second) {
      const std::string key = fmt::format("{}.{}", component, projection);
      const std::string& other = named_by.try_emplace(key, target).first->second;
      // In the language model the one is Megatron's name and the other Hugging Face's.
      const auto fused = [](const std::string& name) {
        return name.ends_with('*') || name.find("linear_") != std::string::npos;
      };
      if (component == "lm" && fused(other) != fused(target)) {
        user_error("peft.target_modules: {} and {} name one projection in two ways; keep one",
                   other, target);
      }
      std::vector<std::string>& parts = chosen[key];
      if (!part.empty() && std::ranges::find(parts, part) == parts.end()) parts.push_back(part);
    }
  }
  return chosen;
}

std::string target_name(std::string_view module, const std::string& name) {
  const std::string_view component = component_of(module);
  return component == "lm" ? name : fmt::format("{}.{}", component, name);
}

std::string bridge_target(const std::string& target) {
  const std::string name = scoped(target);
  for (const auto& [component, root] : kComponents) {
    if (component == "lm" || !name.starts_with(fmt::format("{}.", component))) continue;
    return fmt::format("{}*{}", root, name.substr(component.size() + 1));
  }
  return name.substr(3);
}

}  // namespace trestle
