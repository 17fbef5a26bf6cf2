#include "generate/forward.h"

#include <ATen/ATen.h>

#include "model/kv_cache.h"

namespace trestle {

at::Tensor Forward::embed(const ModelInput& input) const {
  return model_->language_model().has_embedding() ? model_->embed(input) : at::Tensor();
}

at::Tensor Forward::hidden_from(const at::Tensor& embedded_TD, const ModelInput& input,
                                KvCache& cache) const {
  return is_whole() ? model_->hidden_from(embedded_TD, input, &cache)
                    : through_stages(embedded_TD, input, cache);
}

// Chunk c is on stage c mod stages, so that with several chunks a stage the rows go round.
at::Tensor Forward::through_stages(at::Tensor x_TD, const ModelInput& input, KvCache& cache) const {
  const Build& build = model_->build();
  const LayerRuns& own = build.stage->chunks;
  const int64_t stages = stages_.size(), chunks = stages * std::ssize(own);
  for (int64_t i = 0; i < std::ssize(own); ++i) {
    const int64_t chunk = i * stages + stages_.rank();
    if (chunk > 0) {
      x_TD = at::empty({input.ids_T.size(0), model_->config().text.hidden_size},
                       at::TensorOptions().dtype(build.dtype).device(build.device));
      stages_.receive(x_TD, (chunk - 1) % stages).wait();
    }
    x_TD = model_->through(x_TD, input, own[static_cast<size_t>(i)], &cache);
    if (chunk + 1 < chunks) stages_.send(x_TD.contiguous(), (chunk + 1) % stages).wait();
  }
  cache.advance(input.packing.lengths());
  return stages_.rank() == stages - 1 ? x_TD : at::Tensor();
}

at::Tensor Forward::head(const at::Tensor& x_RD, int64_t rows) const {
  if (is_whole()) return model_->language_model().head(x_RD);
  const Build& build = model_->build();
  at::Tensor logits_RV =
      x_RD.defined() ? model_->language_model().head(x_RD).contiguous()
                     : at::empty({rows, model_->config().text.vocab_size},
                                 at::TensorOptions().dtype(build.dtype).device(build.device));
  stages_.broadcast(logits_RV, stages_.size() - 1);
  return logits_RV;
}

}  // namespace trestle
