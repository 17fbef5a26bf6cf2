// A token's whole forward without the host: over buffers that stay where they are, chosen tokens
// included, so that on a card it is captured once and replayed for every token. Called by the
// generator.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "generate/sampling.h"
#include "kernels/sample.h"
#include "model/packing.h"

namespace trestle {

class KvCache;
class Ministral3;

/// Whether a DecodeStep can choose tokens as `options` ask.
bool can_step(const Ministral3& model, const SamplingOptions& options);

/// Steps of all sequences at once. No operator of a step reads a value for the host, and names and
/// sizes of all of them are the same at each. What a step chose is read while the next one
/// computes: whoever finds that an answer has ended drops one token more.
class DecodeStep {
 public:
  /// `cache` holds what is before `ids`, the newest token of each sequence, and has room for all
  /// steps that will be launched; from here on it is fixed. Both are kept by reference.
  DecodeStep(const Ministral3& model, const SamplingOptions& options,
             const std::vector<int64_t>& ids, KvCache& cache);
  ~DecodeStep();
  DecodeStep(const DecodeStep&) = delete;
  DecodeStep& operator=(const DecodeStep&) = delete;

  /// Puts a step on the device and does not wait for it. At most two are under way.
  void launch();
  /// What the oldest step under way chose; waits for it. Throws UserError where logits were not
  /// finite.
  std::vector<int64_t> take();

 private:
  class Replay;

  void compute();

  const Ministral3& model_;
  KvCache& cache_;
  DeviceSampling sampling_;
  Packing packing_;
  // Where the model is: what each sequence goes on with, what was chosen (-1: logits were not
  // finite), and how many tokens were drawn.
  at::Tensor ids_B_, chosen_B_, step_;
  // On the host: what two steps chose.
  std::array<at::Tensor, 2> read_;
  int64_t launched_ = 0, taken_ = 0;
  std::unique_ptr<Replay> replay_;  // null on the CPU
};

}  // namespace trestle
