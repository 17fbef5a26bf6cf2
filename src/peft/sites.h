// Where adapters go: the projections of the language tower, under both families' names, and how
// stored adapters get there. Called by lora and by the loaders of both adapter formats.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "model/ministral3.h"

namespace trestle {

/// Megatron's modules within a layer that may be adapted.
const std::vector<std::string>& adaptable_modules();

struct AdapterSite {
  /// Megatron's module: language_model.decoder.layers.3.mlp.linear_fc1.
  std::string name;
  Linear* linear;
  /// Hugging Face's modules under their canonical names: one for each part of linear->layout(), or
  /// one where it has no parts.
  std::vector<std::string> hf;
};

/// Of every layer, in the order of the model. The pointers live as long as the model.
std::vector<AdapterSite> adapter_sites(const Ministral3& model);

/// "layers.3.mlp.linear_fc1" -> "linear_fc1".
std::string last_component(const std::string& module);

struct AdapterNumbers {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
};

/// Makes an adapter with uninitialised weights; `parts` as Adapter's constructor has them.
void attach_adapter(const AdapterSite& site, const std::vector<std::string>& parts,
                    const AdapterNumbers& numbers);

/// One low-rank pair as a file holds it.
struct StoredPair {
  std::string a, b;
};

/// The pairs of one projection: a single one under "" in Megatron's form and where the layout has
/// no parts, else one for each adapted part.
struct StoredAdapter {
  AdapterSite site;
  std::map<std::string, StoredPair> pairs;
};

/// Attaches them all with the values of `source` in the model's dtypes, and freezes the rest.
/// `what` names the source. Throws UserError, the model as it was, when a tensor has another shape
/// than its place.
void attach_stored(Ministral3& model, const std::vector<StoredAdapter>& adapters,
                   const TensorSource& source, const AdapterNumbers& numbers,
                   std::string_view what);

/// Parameters of adapters ask for gradients, all others do not.
void train_adapters_only(Ministral3& model);

/// "a, b, c and 4 more".
std::string list_some(const std::vector<std::string>& names);

}  // namespace trestle
