// How Mistral's own files (consolidated.safetensors) name and order what hf_layout.h names
// canonically. Called by MistralCheckpoint on reading and by the bridge on writing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "formats/tensor_source.h"
#include "model/config.h"

namespace trestle {

/// layers.0.attention.wq.weight -> model.layers.0.self_attn.q_proj.weight; `qscale_weight` becomes
/// `weight_scale_inv`. Nothing for a name that Mistral's files
/// do not have, Hugging Face's own included: their rows would be taken for Mistral's.
std::optional<std::string> canonical_of_mistral(std::string_view name);
/// The reverse; nothing for a name that is not canonical.
std::optional<std::string> mistral_of_canonical(std::string_view name);

/// The heads of a q or k projection of either tower; nothing for any other tensor.
std::optional<int64_t> rotary_heads(std::string_view canonical, const ModelConfig& config);

/// Rotary embeddings turn two rows of a head as one complex number. Mistral's files keep the two
/// side by side (0 1, 2 3, ...), Hugging Face's half a head apart. Both take and give a q or k
/// weight [heads * head_dim, ...] and move rows only. Throws UserError (`what` opens it) where the
/// rows are no pairs of `heads`.
at::Tensor halves_from_pairs(const at::Tensor& weight, int64_t heads, std::string_view what);
at::Tensor pairs_from_halves(const at::Tensor& weight, int64_t heads, std::string_view what);

/// A range of the rows that `move` (one of the two above) makes of a weight: `read` gives the heads
/// that the range touches, no more of the weight is held.
void read_moved_rows(const TensorInfo& info, int64_t heads,
                     at::Tensor (*move)(const at::Tensor&, int64_t, std::string_view),
                     RowRange range, std::byte* out,
                     const std::function<void(RowRange, std::byte*)>& read, std::string_view what);

/// A source of canonical names with the rows of q and k as Mistral's files have them: what a writer
/// of such a directory takes. Views `source` and `config`, which must outlive it.
class MistralRows : public TensorSource {
 public:
  MistralRows(const TensorSource& source, const ModelConfig& config)
      : source_(source), config_(config) {}
  const std::map<std::string, TensorInfo>& tensors() const override { return source_.tensors(); }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;

 private:
  const TensorSource& source_;
  const ModelConfig& config_;
};

}  // namespace trestle
