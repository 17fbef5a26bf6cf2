#include "checkpoint/config_difference.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <functional>
#include <optional>
#include <string_view>
#include <tuple>

#include "base/error.h"
#include "checkpoint/hf_config.h"

namespace trestle {

namespace {

std::string shown(int64_t value) { return std::to_string(value); }
std::string shown(double value) { return fmt::format("{}", value); }
std::string shown(bool value) { return value ? "true" : "false"; }
std::string shown(const std::vector<int64_t>& values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}
std::string shown(VisionConfig::Activation value) {
  return value == VisionConfig::Activation::kSilu ? "silu" : "gelu";
}
std::string shown(ProjectorConfig::Activation value) {
  constexpr std::array kNames = {"gelu", "gelu_pytorch_tanh", "silu", "relu"};
  return kNames.at(static_cast<size_t>(value));
}
template <class T>
std::string shown(const std::optional<T>& value) {
  return value ? shown(*value) : "null";
}

// Compares member by member and keeps what differs.
class Comparison {
 public:
  template <class Config, class T>
  void add(std::string_view key, const Config& ours, const Config& theirs, T Config::*member) {
    add_values(key, ours.*member, theirs.*member);
  }
  template <class T>
  void add_values(std::string_view key, const T& ours, const T& theirs) {
    if (ours == theirs) return;
    found_.push_back({prefix_ + std::string(key), shown(ours), shown(theirs)});
  }
  /// Whether both have the part; one that only one has is a difference itself.
  template <class Part>
  bool both(std::string_view key, const std::optional<Part>& ours,
            const std::optional<Part>& theirs) {
    if (ours.has_value() == theirs.has_value()) return ours.has_value();
    const auto say = [](bool there) { return there ? "(there)" : "(absent)"; };
    found_.push_back({prefix_ + std::string(key), say(ours.has_value()), say(theirs.has_value())});
    return false;
  }
  void set_prefix(std::string_view prefix) { prefix_ = prefix; }
  std::vector<ConfigDifference> found() { return std::move(found_); }

 private:
  std::string prefix_;
  std::vector<ConfigDifference> found_;
};

// A key of config.json, the provider's argument that says the same in a run_config.yaml (null: none
// does), and where the value lies.
template <class Get>
struct TextKey {
  std::string_view key;
  const char* argument;
  Get get;
};
template <class Get>  // clang 16, which builds the fuzz targets, does not find it for an aggregate
TextKey(std::string_view, const char*, Get)->TextKey<Get>;
constexpr std::tuple kTextKeys(
    TextKey{"hidden_size", "hidden_size", &TextConfig::hidden_size},
    TextKey{"intermediate_size", "ffn_hidden_size", &TextConfig::intermediate_size},
    TextKey{"num_hidden_layers", "num_layers", &TextConfig::num_layers},
    TextKey{"num_attention_heads", "num_attention_heads", &TextConfig::num_attention_heads},
    TextKey{"num_key_value_heads", "num_query_groups", &TextConfig::num_query_groups},
    TextKey{"head_dim", "kv_channels", &TextConfig::head_dim},
    // The provider's is a padded one.
    TextKey{"vocab_size", nullptr, &TextConfig::vocab_size},
    TextKey{"rms_norm_eps", "layernorm_epsilon", &TextConfig::rms_norm_eps},
    TextKey{"rope_parameters.rope_theta", "rotary_base",
            [](const TextConfig& text) { return text.rope.theta; }});

void for_each_text_key(const auto& visit) {
  std::apply([&](const auto&... each) { (visit(each), ...); }, kTextKeys);
}

void compare_rope(Comparison& all, const RopeConfig& ours, const RopeConfig& theirs) {
  all.add("llama_4_scaling_beta", ours, theirs, &RopeConfig::llama_4_scaling_beta);
  if (ours.llama_4_scaling_beta && theirs.llama_4_scaling_beta) {
    all.add("original_max_position_embeddings", ours, theirs,
            &RopeConfig::llama_4_original_max_position_embeddings);
  }
  if (!all.both("rope_type=yarn", ours.yarn, theirs.yarn)) return;
  const YarnConfig &a = *ours.yarn, &b = *theirs.yarn;
  all.add("factor", a, b, &YarnConfig::factor);
  if (!ours.llama_4_scaling_beta || !theirs.llama_4_scaling_beta) {
    all.add("original_max_position_embeddings", a, b,
            &YarnConfig::original_max_position_embeddings);
  }
  all.add("beta_fast", a, b, &YarnConfig::beta_fast);
  all.add("beta_slow", a, b, &YarnConfig::beta_slow);
  all.add("mscale", a, b, &YarnConfig::mscale);
  all.add("mscale_all_dim", a, b, &YarnConfig::mscale_all_dim);
  all.add("attention_factor", a, b, &YarnConfig::attention_factor);
  all.add("truncate", a, b, &YarnConfig::truncate);
}

void compare_text(Comparison& all, const TextConfig& ours, const TextConfig& theirs,
                  const std::string& prefix) {
  all.set_prefix(prefix);
  for_each_text_key([&](const auto& each) {
    all.add_values(each.key, std::invoke(each.get, ours), std::invoke(each.get, theirs));
  });
  all.set_prefix(prefix + "rope_parameters.");
  compare_rope(all, ours.rope, theirs.rope);
}

void compare_vision(Comparison& all, const ModelConfig& ours, const ModelConfig& theirs) {
  all.set_prefix("");
  if (!all.both("vision_config", ours.vision, theirs.vision)) return;
  const VisionConfig &a = *ours.vision, &b = *theirs.vision;
  all.set_prefix("vision_config.");
  all.add("hidden_size", a, b, &VisionConfig::hidden_size);
  all.add("intermediate_size", a, b, &VisionConfig::intermediate_size);
  all.add("num_hidden_layers", a, b, &VisionConfig::num_layers);
  all.add("num_attention_heads", a, b, &VisionConfig::num_attention_heads);
  all.add("head_dim", a, b, &VisionConfig::head_dim);
  all.add("num_channels", a, b, &VisionConfig::num_channels);
  all.add("patch_size", a, b, &VisionConfig::patch_size);
  all.add("hidden_act", a, b, &VisionConfig::hidden_act);
  all.add("rope_parameters.rope_theta", a, b, &VisionConfig::rope_theta);
  all.set_prefix("");
  const ProjectorConfig &p = ours.projector, &q = theirs.projector;
  all.add("spatial_merge_size", p, q, &ProjectorConfig::spatial_merge_size);
  all.add("multimodal_projector_bias", p, q, &ProjectorConfig::bias);
  all.add("projector_hidden_act", p, q, &ProjectorConfig::hidden_act);
  all.add("vision_feature_layer", p, q, &ProjectorConfig::vision_feature_layers);
  all.add("image_token_index", ours, theirs, &ModelConfig::image_token_id);
}

// What the checkpoint says of its model in Hugging Face's words, where that can be read.
std::optional<ModelConfig> own_config(const MegatronCheckpoint& checkpoint,
                                      const std::string& file) {
  try {
    if (const auto stated = checkpoint.hf_config()) return parse_hf_config(*stated, file);
  } catch (const UserError&) {
    return std::nullopt;  // it may be why another config was given
  }
  return std::nullopt;
}

}  // namespace

std::vector<ConfigDifference> config_differences(const ModelConfig& ours,
                                                 const ModelConfig& theirs) {
  Comparison all;
  compare_text(all, ours.text, theirs.text, ours.vision ? "text_config." : "");
  compare_vision(all, ours, theirs);
  return all.found();
}

std::vector<ConfigDifference> provider_differences(const ModelConfig& ours,
                                                   const Json& run_config) {
  const auto model = run_config.is_object() ? run_config.find("model") : run_config.end();
  if (model == run_config.end() || !model->is_object()) return {};
  const TextConfig& text = ours.text;
  const std::string prefix = ours.vision ? "text_config." : "";
  std::vector<ConfigDifference> found;
  for_each_text_key([&](const auto& each) {
    const auto stated = each.argument == nullptr ? model->end() : model->find(each.argument);
    if (stated == model->end() || !stated->is_number()) return;
    const auto value = std::invoke(each.get, text);
    if (stated->template get<double>() == static_cast<double>(value)) return;
    found.push_back({prefix + std::string(each.key), shown(value),
                     fmt::format("{} ({})", stated->dump(), each.argument)});
  });
  return found;
}

void require_same_model(const MegatronCheckpoint& checkpoint, const ModelConfig& config,
                        std::string_view whose) {
  const std::string own = (checkpoint.directory() / "run_config.yaml").string();
  const std::optional<ModelConfig> stated = own_config(checkpoint, own);
  const auto found = stated ? config_differences(config, *stated)
                            : provider_differences(config, checkpoint.run_config());
  if (found.empty()) return;
  user_error("{}: {}={} but {} says {}; give the one that belongs to it", whose, found.front().key,
             found.front().ours, own, found.front().theirs);
}

}  // namespace trestle
