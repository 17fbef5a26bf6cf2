// Where adapters go: the projections of both towers and of the projector, under both families'
// names, and how stored adapters get there. Called by lora and by the loaders of both adapter
// formats.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor_source.h"
#include "linear/adapter_spec.h"

namespace trestle {

class Ministral3;
class Linear;

struct AdapterSite {
  /// Megatron's module: language_model.decoder.layers.3.mlp.linear_fc1,
  /// vision_tower.transformer.layers.3.attention.q_proj, multi_modal_projector.linear_1.
  std::string name;
  Linear* linear;
  /// Hugging Face's modules under their canonical names: one for each part of linear->layout(), or
  /// one where it has no parts.
  std::vector<std::string> hf;
  /// Not where the model is a part and another has it.
  bool is_here = true;
};

/// Of every layer of the language model, then of the vision tower, then of the projector, each in
/// the order of the model. The pointers live as long as the model.
std::vector<AdapterSite> adapter_sites(const Ministral3& model);

/// The sites of the whole model of which `model` is a part, which is what config and files of an
/// adapter speak of; those that are not here are of `rest`, which has no values.
struct WholeSites {
  explicit WholeSites(const Ministral3& model);
  std::shared_ptr<Ministral3> rest;
  std::vector<AdapterSite> sites;
};

/// "layers.3.mlp.linear_fc1" -> "linear_fc1".
std::string last_component(const std::string& module);

/// Makes an adapter with uninitialised weights of `dtype`, where the projection is (on the CPU for
/// one without values), or else on `device`.
void attach_adapter(const AdapterSite& site, const AdapterSpec& spec, at::ScalarType dtype,
                    std::optional<at::Device> device = {});

/// One low-rank pair as a file holds it: the names of its tensors, and the numbers that go with it.
struct StoredPair {
  std::string a, b;
  /// DoRA's; empty in LoRA.
  std::string magnitude = {};
  int64_t rank = 0;
  double alpha = 0;
};

/// The pairs of one projection: a single one under "" in Megatron's form and where the layout has
/// no parts, else one for each adapted part.
struct StoredAdapter {
  AdapterSite site;
  std::map<std::string, StoredPair> pairs;
};

/// Attaches those that are here with the values of `source` in the model's dtypes (on the meta
/// device in their own), and freezes the rest. `what` names the source. Throws UserError, the model
/// as it was, when a tensor has another shape than its place, or when `dora` and a pair has no
/// magnitude or the reverse.
void attach_stored(Ministral3& model, const std::vector<StoredAdapter>& adapters,
                   const TensorSource& source, double dropout, bool dora, std::string_view what);

/// A pair of the model's adapters under Hugging Face's names.
struct NamedPair {
  /// Canonical: model.layers.3.mlp.up_proj.
  std::string module;
  /// Detached; the rows of b and of the magnitude are the module's. The magnitude is undefined in
  /// LoRA.
  at::Tensor a, b, magnitude;
  /// alpha / rank is the scale.
  double alpha, dropout;
};

/// In the order of the model. In Megatron's form the parts of a fused projection share one a.
std::vector<NamedPair> named_pairs(const Ministral3& model);

/// Parameters of adapters ask for gradients, all others do not.
void train_adapters_only(Ministral3& model);

/// "a, b, c and 4 more".
std::string list_some(const std::vector<std::string>& names);

}  // namespace trestle
