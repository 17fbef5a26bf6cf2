#include "train/diagnose.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "bridge/load_quantized.h"
#include "model/context_share.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"

namespace trestle {

namespace {

bool is_finite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

// What quantised weights are made of was found finite when they were.
bool is_finite(const Linear& linear) {
  bool finite = true;
  if (linear.fp8() != nullptr) {
    linear.for_dense_rows([&](int64_t, const at::Tensor& rows) { finite &= is_finite(rows); });
  }
  return finite;
}

std::string bad_parameter(const Ministral3& model) {
  const auto linears = projections(model);
  for (const auto& entry : model.named_parameters()) {
    const bool finite =
        entry.value().is_meta() ? is_finite(*linears.at(entry.key())) : is_finite(entry.value());
    if (!finite) return "parameter " + entry.key();
  }
  return {};
}

std::string bad_picture(const Ministral3& model, const ModelInput& input) {
  for (size_t i = 0; i < input.images_CHW.size(); ++i) {
    if (!is_finite(input.images_CHW[i])) return fmt::format("pixels of image {}", i);
  }
  const bool finite =
      input.images_CHW.empty() || is_finite(model.shared_image_features(input.images_CHW));
  return finite ? "" : "output of the vision tower";
}

// The first that is not finite behind x, through one chunk of layers; x becomes their output.
std::string bad_output(const Ministral3& model, const ModelInput& input, LayerRun run,
                       at::Tensor& x_TD) {
  std::string bad;
  for (int64_t i = run.first; i < run.last; ++i) {
    x_TD = model.through(x_TD, input, {i, i + 1});
    if (bad.empty() && !is_finite(x_TD)) bad = fmt::format("output of decoder layer {}", i);
  }
  return bad;
}

}  // namespace

std::string first_bad_tensor(const Ministral3& model, const Grid& grid, const Batch& batch) {
  const at::NoGradGuard no_grad;
  const Group& stages = grid.pipeline;
  std::string bad = first_text(stages, bad_parameter(model));
  if (!bad.empty()) return bad;
  // Other ranks would have to gather layers with this one, and know of nothing.
  if (model.language_model().base() != nullptr) {
    return "not looked for among layers that ranks share out (peft.shard_base=true)";
  }
  const RankBatch share = model.rank_batch(batch.input, batch.labels_T);
  const auto& part = model.build().stage;
  const LayerRuns runs = part ? part->chunks : LayerRuns{{0, model.config().text.num_layers}};
  std::vector<Pending> sent;
  for (int64_t i = 0; i < std::ssize(runs); ++i) {
    const int64_t chunk = i * stages.size() + stages.rank();
    at::Tensor x_TD;
    bool is_good = true;  // else it was told of before
    if (chunk == 0) {
      bad = bad_picture(model, share.input);
      x_TD = model.spread(model.embed(share.input));
      is_good = bad.empty();
    } else {
      const Build& build = model.build();
      x_TD = at::empty({model.rows_between_layers(share.input), model.config().text.hidden_size},
                       at::TensorOptions().dtype(build.dtype).device(build.device));
      stages.receive(x_TD, (chunk - 1) % stages.size()).wait();
      is_good = is_finite(x_TD);
    }
    const std::string found = bad_output(model, share.input, runs[static_cast<size_t>(i)], x_TD);
    if (is_good && bad.empty()) bad = found;
    if (chunk < grid.topology.chunks() - 1) {
      sent.push_back(stages.send(x_TD, (chunk + 1) % stages.size()));
    } else if (is_good && bad.empty() && !is_finite(model.loss_from(x_TD, share.labels_T))) {
      bad = "logits";
    }
  }
  for (Pending& each : sent) each.wait();
  bad = first_text(stages, bad);
  return bad.empty() ? "no tensor of a second forward" : bad;
}

std::string first_bad_gradient(const AdamW::NamedTensors& parameters) {
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined() && !is_finite(parameter.grad())) return name;
  }
  return {};
}

}  // namespace trestle
