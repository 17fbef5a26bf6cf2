#include "metrics/flops.h"

#include <fmt/format.h>
#include <torch/nn/module.h>

#include <map>
#include <string>

#include "model/ministral3.h"

namespace trestle {

namespace {

// The modules of a model by name, and what of them trains.
class Parts {
 public:
  explicit Parts(const Ministral3& model) {
    for (const auto& entry : model.named_modules("", /*include_self=*/false)) {
      if (const auto* linear = dynamic_cast<const Linear*>(entry.value().get())) {
        linears_[entry.key()] = linear;
      }
    }
    for (const auto& entry : model.named_parameters()) {
      trains_[entry.key()] = entry.value().requires_grad();
    }
  }

  const Linear& linear(const std::string& name) const { return *linears_.at(name); }
  /// Any parameter whose name begins so.
  bool train(const std::string& prefix) const {
    for (auto at = trains_.lower_bound(prefix); at != trains_.end(); ++at) {
      if (!at->first.starts_with(prefix)) break;
      if (at->second) return true;
    }
    return false;
  }

 private:
  std::map<std::string, const Linear*> linears_;
  std::map<std::string, bool> trains_;
};

// Of one row through a product: forward, and once more for each gradient.
double product(int64_t in, int64_t out, bool input_grad, bool weight_grad) {
  return 2.0 * static_cast<double>(in) * static_cast<double>(out) *
         (1.0 + (input_grad ? 1 : 0) + (weight_grad ? 1 : 0));
}

// Of the whole projection, of which a tensor rank has a share.
double linear(const Linear& layer, bool input_grad) {
  const at::Tensor& weight = layer.weight;
  const int64_t ranks = layer.groups().tensor.size();
  const std::vector<int64_t> whole = whole_sizes(weight.sizes(), layer.split(), ranks);
  double sum = product(whole[1], whole[0], input_grad, weight.requires_grad());
  const int64_t shares_in = whole[1] / weight.size(1), shares_out = whole[0] / weight.size(0);
  const auto add = [&](const LowRank& pair) {
    const bool a = pair.a.requires_grad(), b = pair.b.requires_grad();
    sum += product(pair.a.size(1) * shares_in, pair.rank(), input_grad, a) +
           product(pair.rank(), pair.b.size(0) * shares_out, input_grad || a, b);
  };
  if (!layer.adapter()) return sum;
  if (layer.adapter()->whole()) add(*layer.adapter()->whole());
  for (const auto& pair : layer.adapter()->pairs()) {
    if (pair) add(*pair);
  }
  return sum;
}

// Of one pair of a query and a key, over all heads.
double attention(int64_t heads, int64_t head_dim, bool grad) {
  return 4.0 * static_cast<double>(heads * head_dim) * (grad ? 3 : 1);
}

double square(double x) { return x * x; }

}  // namespace

ModelFlops::ModelFlops(const Ministral3& model, const GradientInflow& inflow) {
  const LanguageModel& language = model.language_model();
  const bool embedding = language.has_embedding() && language.word_embeddings().requires_grad();
  text_[0] = text_of(model, inflow, false, embedding);
  const bool pictures = model.vision_tower() != nullptr && count_vision(model);
  text_[1] = text_of(model, inflow, true, pictures || embedding);
}

ModelFlops::Text ModelFlops::text_of(const Ministral3& model, const GradientInflow& inflow,
                                     bool pictures, bool flows) const {
  const auto& stage = model.build().stage;
  const Parts parts(model);
  const TextConfig& config = model.config().text;
  Text text;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    if (stage && !stage->holds(i)) continue;
    for (size_t run = 0; run < inflow.size(); ++run) {
      if (stage->chunks[run].first == i) flows = flows || inflow[run][pictures ? 1 : 0];
    }
    const std::string layer = fmt::format("language_model.decoder.layers.{}.", i);
    const auto through = [&](const std::string& name, bool input_grad) {
      text.token += linear(parts.linear(layer + name), input_grad);
      return input_grad || parts.train(layer + name + ".");
    };
    const std::string norm = ".layer_norm_weight";
    const std::string qkv = "self_attention.linear_qkv", fc1 = "mlp.linear_fc1";
    const bool attended = through(qkv, flows || parts.train(layer + qkv + norm));
    text.pair += attention(config.num_attention_heads, config.head_dim, attended);
    flows = through("self_attention.linear_proj", attended) || flows;
    const bool inner = through(fc1, flows || parts.train(layer + fc1 + norm));
    flows = through("mlp.linear_fc2", inner) || flows;
  }
  if (!model.language_model().has_head()) return text;
  flows = flows || parts.train("language_model.decoder.final_layernorm.");
  const at::Tensor& head = model.language_model().head_weight();
  text.target = product(head.size(1), config.vocab_size, flows, head.requires_grad());
  return text;
}

bool ModelFlops::count_vision(const Ministral3& model) {
  const Parts parts(model);
  const VisionConfig& config = *model.config().vision;
  patch_size_ = config.patch_size;
  merge_ = model.config().projector.spatial_merge_size;
  bool flows = parts.train("vision_tower.patch_conv.");
  patch_ += product(config.num_channels * config.patch_size * config.patch_size, config.hidden_size,
                    false, flows);
  flows = flows || parts.train("vision_tower.ln_pre.");
  for (size_t i = 0; i < model.vision_tower()->depth(); ++i) {
    const std::string layer = fmt::format("vision_tower.transformer.layers.{}.", i);
    // Several projections of one input; whether gradients flow out of any.
    const auto through = [&](std::initializer_list<const char*> names, bool input_grad) {
      bool out = input_grad;
      for (const char* name : names) {
        patch_ += linear(parts.linear(layer + name), input_grad);
        out = out || parts.train(layer + name + ".");
      }
      return out;
    };
    const bool attended = through({"attention.q_proj", "attention.k_proj", "attention.v_proj"},
                                  flows || parts.train(layer + "attention_norm."));
    patch_pair_ += attention(config.num_attention_heads, config.head_dim, attended);
    flows = through({"attention.o_proj"}, attended) || flows;
    const bool inner = through({"feed_forward.gate_proj", "feed_forward.up_proj"},
                               flows || parts.train(layer + "ffn_norm."));
    flows = through({"feed_forward.down_proj"}, inner) || flows;
  }
  const std::string projector = "multi_modal_projector.";
  flows = flows || parts.train(projector + "norm.");
  for (const char* name : {"patch_merger.merging_layer", "linear_1", "linear_2"}) {
    merged_ += linear(parts.linear(projector + name), flows);
    flows = flows || parts.train(projector + name + ".");
  }
  return flows;
}

double ModelFlops::of(const ModelInput& input, const std::vector<at::Tensor>& pictures,
                      int64_t targets) const {
  const Text& text = text_[input.images_CHW.empty() ? 0 : 1];
  double sum = text.token * static_cast<double>(input.packing.tokens()) +
               text.target * static_cast<double>(targets);
  for (const int64_t length : input.packing.lengths()) {
    sum += text.pair * (square(static_cast<double>(length)) + static_cast<double>(length)) / 2;
  }
  for (const at::Tensor& picture : pictures) {
    const int64_t rows = picture.size(1) / patch_size_, columns = picture.size(2) / patch_size_;
    const auto patches = static_cast<double>(rows * columns);
    sum += patch_ * patches + patch_pair_ * square(patches) +
           merged_ * patches / square(static_cast<double>(merge_));
  }
  return sum;
}

PartCosts part_costs(const ModelConfig& config, const ModelInput& input, int64_t targets,
                     const std::function<void(Ministral3&)>& settle) {
  const auto operations = [&](Stage stage) {
    // Gradients flow into every layer, as they do behind a tower or embedding that trains.
    const GradientInflow inflow(stage.chunks.size(), {true, true});
    Build build{.device = at::kMeta};
    build.stage = std::move(stage);
    Ministral3 part(config, build);
    if (settle) settle(part);
    return ModelFlops(part, inflow).of(input, input.images_CHW, targets);
  };
  PartCosts costs;
  costs.before = operations({{}, true, false});
  const int64_t layers = config.text.num_layers;
  for (int64_t i = 0; i < layers; ++i) {
    costs.layers.push_back(operations({{{i, i + 1}}, false, false}));
  }
  costs.behind = operations({{{layers - 1, layers}}, false, true}) - costs.layers.back();
  return costs;
}

}  // namespace trestle
