// PiSSA (Meng et al. 2024): adapters that start as the principal part of their weight, which the
// base then lacks. Called by attach_lora, the trainer and megatron_adapter.
#pragma once

#include <ATen/core/Generator.h>

#include <optional>
#include <string>

#include "formats/tensor_source.h"
#include "peft/sites.h"

namespace trestle {

class LowRank;

/// 0 for "pissa", the exact decomposition; N for "pissa_niter_N", a random one refined N times
/// (Halko et al. 2011); nothing for another method.
std::optional<int64_t> pissa_iterations(const std::string& method);

/// A and B become the `rank` first singular triples of the site's weight or of its part, peft's
/// pissa_init: s B A is the best approximation of that rank. They are kept beside the pair as
/// `initial_in` and `initial_out`, which never train: with W the base as it is on disk, the model
/// computes (W - s B0 A0) x + s B A x, so a run needs nothing but its adapters to go on, to be
/// merged and to be exported.
void start_pissa(const AdapterSite& site, int64_t iterations, const at::Generator& generator);

/// Takes s B0 A0 out of every weight that has an `initial_in` beside its adapter: once, when the
/// model has the values with which it will train.
void take_initial_from_base(Ministral3& model);

/// Whether the pair is of PiSSA.
bool has_initial(const LowRank& pair);

/// The pair as a plain LoRA of the base as it is on disk: (A, B), or of PiSSA
/// ([A; A0], [B, -B0]) with twice rank and alpha, as peft converts it.
struct PlainPair {
  at::Tensor a, b;
  double alpha;
};
PlainPair plain_pair(const LowRank& pair);

/// The tensors of a run's checkpoint, those of PiSSA as plain_pair() has them: linear_in.weight and
/// linear_out.weight take in what initial_in and initial_out hold.
class PlainTensors : public TensorSource {
 public:
  explicit PlainTensors(const TensorSource& stored);
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  /// Whether any tensor is of PiSSA: all ranks and alphas are then twice what the config says.
  bool has_pissa() const { return !initial_.empty(); }

 private:
  const TensorSource& stored_;
  std::map<std::string, TensorInfo> tensors_;
  /// Of a factor the name of its initial value.
  std::map<std::string, std::string> initial_;
};

}  // namespace trestle
