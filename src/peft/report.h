// What a model's adapters are and cost: the table before the first step. Called by finetune.
#pragma once

#include <string>
#include <vector>

namespace trestle {

class Ministral3;

/// The adapters of one kind of projection.
struct AdapterRow {
  /// "lm", "vision" or "projector".
  std::string component;
  /// "linear_qkv", "q_proj", ...; where parts are adapted by themselves "linear_qkv: q_proj
  /// v_proj".
  std::string module;
  /// Projections of this kind that have one, and the rank (several: the largest).
  int64_t modules = 0, rank = 0;
  /// Parameters that train.
  int64_t parameters = 0;
};
std::vector<AdapterRow> adapter_rows(const Ministral3& model);

/// What DoRA adds to a LoRA of the same ranks, computed from the shapes. All 0 for LoRA.
struct DoraCost {
  /// Magnitudes, and the parameters of the LoRA alone.
  int64_t magnitudes = 0, lora_parameters = 0;
  /// Floating-point operations of the rows' norms: once a forward, whatever its tokens.
  double norms = 0;
  /// Of the adapted projections a token: base and LoRA alone; what DoRA adds (the scaling, and with
  /// dropout a second product with the base).
  double lora_per_token = 0, added_per_token = 0;
  /// Bytes of outputs that the backward keeps for the magnitudes, a token.
  int64_t kept_per_token = 0;
};
DoraCost dora_cost(const Ministral3& model);

/// Both as text for people, with a line for each row and the share that trains.
std::string adapter_report(const Ministral3& model);

}  // namespace trestle
