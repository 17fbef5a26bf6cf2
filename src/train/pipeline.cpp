#include "train/pipeline.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <numeric>

#include "model/host_input.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

using Kind = PipelinePass::Kind;

// Activations and their gradients may go the same way, between two stages with several chunks each,
// and then no one order of both holds at either end.
int tag_of(const PipelinePass& pass) { return pass.kind == Kind::kForward ? 1 : 2; }

// Any parameter whose name begins so.
bool trains(const Ministral3& model, const std::string& prefix) {
  return std::ranges::any_of(model.named_parameters().items(), [&](const auto& each) {
    return each.key().starts_with(prefix) && each.value().requires_grad();
  });
}

size_t place_in(const std::vector<PipelinePass>& passes, const PipelinePass& pass) {
  const auto at = std::ranges::find(passes, pass);
  TORCH_CHECK(at != passes.end(), "a stage that does not make the pass of another's message");
  return static_cast<size_t>(at - passes.begin());
}

}  // namespace

Pipeline::Pipeline(const Ministral3& model, const Grid& grid)
    : model_(model), grid_(grid), topology_(grid.topology) {
  const auto& stage = model.build().stage;
  chunks_ = stage ? stage->chunks : LayerRuns{{0, model.config().text.num_layers}};
  TORCH_CHECK(std::ssize(chunks_) == topology_.virtual_pipeline,
              "the model's part has another number of chunks than the topology says");
  // Of each chunk, by its layers and embedding, and by tower and projector.
  std::vector<int64_t> own(static_cast<size_t>(2 * topology_.chunks()), 0);
  for (int64_t i = 0; i < topology_.virtual_pipeline; ++i) {
    const int64_t chunk = i * topology_.pipeline + grid.place.pipeline;
    bool any = chunk == 0 && trains(model, "language_model.embedding.");
    for (int64_t layer = layers_of(chunk).first; layer < layers_of(chunk).last; ++layer) {
      any = any || trains(model, fmt::format("language_model.decoder.layers.{}.", layer));
    }
    const auto at = static_cast<size_t>(2 * chunk);
    own[at] = any ? 1 : 0;
    any = trains(model, "vision_tower.") || trains(model, "multi_modal_projector.");
    own[at + 1] = chunk == 0 && any ? 1 : 0;
  }
  const std::vector<int64_t> all = grid.pipeline.sum(own);
  std::array<bool, 2> so_far = {false, false};
  for (size_t chunk = 0; chunk < static_cast<size_t>(topology_.chunks()); ++chunk) {
    so_far[0] = so_far[0] || all[2 * chunk] > 0;
    so_far[1] = so_far[1] || so_far[0] || all[2 * chunk + 1] > 0;
    trains_.push_back(so_far);
  }
}

const LayerRun& Pipeline::layers_of(int64_t chunk) const {
  return chunks_[static_cast<size_t>(chunk / topology_.pipeline)];
}

GradientInflow Pipeline::inflow() const {
  GradientInflow inflow;
  if (!model_.build().stage) return inflow;
  for (int64_t i = 0; i < topology_.virtual_pipeline; ++i) {
    const int64_t chunk = i * topology_.pipeline + grid_.place.pipeline;
    inflow.push_back(chunk == 0 ? std::array{false, false}
                                : trains_[static_cast<size_t>(chunk - 1)]);
  }
  return inflow;
}

const Pipeline::Share& Pipeline::share_of(Run& run, int64_t micro_batch) const {
  const auto found = run.shares.find(micro_batch);
  if (found != run.shares.end()) return found->second;
  const auto [input, labels_T] = run.batches(micro_batch);
  Share share{model_.rank_batch(*input, *labels_T), Targets::of(*labels_T).count() > 0,
              !input->images_CHW.empty()};
  return run.shares.emplace(micro_batch, std::move(share)).first->second;
}

bool Pipeline::flows_out_of(int64_t chunk, const Share& share) const {
  return share.learns && chunk > 0 &&
         trains_[static_cast<size_t>(chunk - 1)][share.has_pictures ? 1 : 0];
}

std::optional<PipelinePass> Pipeline::source_of(const Pass& pass) const {
  const bool forward = pass.kind == Kind::kForward;
  const int64_t chunk = forward ? pass.chunk - 1 : pass.chunk + 1;
  if (chunk < 0 || chunk == topology_.chunks()) return std::nullopt;
  return Pass{pass.kind, pass.micro_batch, chunk};
}

void Pipeline::expect(Run& run, const Pass& pass) const {
  const auto source = source_of(pass);
  if (!source || run.incoming.contains(pass) || pass.micro_batch >= run.micro_batches) return;
  const Share& share = share_of(run, pass.micro_batch);
  if (pass.kind == Kind::kBackward && !flows_out_of(source->chunk, share)) return;
  const Build& build = model_.build();
  const at::Tensor x_TD =
      at::empty({model_.rows_between_layers(share.batch.input), model_.config().text.hidden_size},
                at::TensorOptions().dtype(build.dtype).device(build.device));
  run.incoming[pass] = {x_TD, grid_.pipeline.receive(x_TD, stage_of(*source), tag_of(pass))};
}

at::Tensor Pipeline::receive(Run& run, const Pass& pass) const {
  expect(run, pass);
  auto incoming = run.incoming.extract(pass);
  if (incoming.empty()) return {};
  incoming.mapped().arrival.wait();
  return incoming.mapped().x;
}

void Pipeline::send(Run& run, const at::Tensor& x, const Pass& to) const {
  const int64_t stage = stage_of(to);
  const size_t taken_at = place_in(run.passes[static_cast<size_t>(stage)], to);
  run.outgoing.push_back({stage, taken_at, grid_.pipeline.send(x.contiguous(), stage, tag_of(to))});
}

void Pipeline::release(Run& run, const Pass& done) const {
  const int64_t stage = stage_of(done);
  const size_t at = place_in(run.passes[static_cast<size_t>(stage)], done);
  for (auto each = run.outgoing.begin(); each != run.outgoing.end();) {
    if (each->stage != stage || each->taken_at > at) {
      ++each;
      continue;
    }
    each->sent.wait();
    each = run.outgoing.erase(each);
  }
}

void Pipeline::forward(Run& run, const Pass& pass) const {
  const Share& share = share_of(run, pass.micro_batch);
  at::Tensor x_TD;
  if (pass.chunk == 0) {
    x_TD = model_.spread(model_.embed(share.batch.input));
  } else {
    x_TD = receive(run, pass);
    release(run, *source_of(pass));
    if (run.trains) x_TD.requires_grad_(flows_out_of(pass.chunk, share));
  }
  Kept kept{pass.chunk == 0 ? at::Tensor() : x_TD, {}};
  at::Tensor y = model_.through(x_TD, share.batch.input, layers_of(pass.chunk));
  if (pass.chunk == topology_.chunks() - 1) {
    y = model_.loss_from(y, share.batch.labels_T) / run.divisor;
    run.losses[static_cast<size_t>(pass.micro_batch)] = y.detach();
  } else {
    send(run, y.detach(), {Kind::kForward, pass.micro_batch, pass.chunk + 1});
  }
  if (!run.trains) return;
  if (y.requires_grad()) kept.output = torch::autograd::impl::gradient_edge(y);
  run.kept[{pass.micro_batch, pass.chunk}] = std::move(kept);
}

void Pipeline::backward(Run& run, const Pass& pass) const {
  const Share& share = share_of(run, pass.micro_batch);
  const auto source = source_of(pass);
  // None where nothing before trains.
  const auto one = at::TensorOptions().dtype(at::kFloat).device(model_.build().device);
  const at::Tensor gradient = source ? receive(run, pass) : at::ones({}, one);
  // Taken by then, whether or not anything comes back.
  if (source) release(run, *source);
  Kept kept = std::move(run.kept.extract({pass.micro_batch, pass.chunk}).mapped());
  if (!share.learns) return;
  // No gradient flows where only the vision tower trains and no sample has a picture.
  if (gradient.defined() && kept.output.is_valid()) {
    torch::autograd::Engine::get_default_engine().execute({kept.output}, {gradient},
                                                          /*keep_graph=*/false,
                                                          /*create_graph=*/false,
                                                          /*accumulate_grad=*/true);
  }
  if (!flows_out_of(pass.chunk, share)) return;
  at::Tensor out = kept.input.grad();
  if (!out.defined()) out = at::zeros_like(kept.input);
  send(run, out.detach(), {Kind::kBackward, pass.micro_batch, pass.chunk - 1});
}

std::vector<int64_t> Pipeline::visits_of(const Pass& pass) const {
  const LayerRun& run = layers_of(pass.chunk);
  if (pass.kind == Kind::kBackward) {
    return backward_visits(run.first, run.last, model_.language_model().recompute());
  }
  std::vector<int64_t> visits(static_cast<size_t>(run.size()));
  std::iota(visits.begin(), visits.end(), run.first);
  return visits;
}

// A micro-batch that this rank has not is made by other data ranks, and the layers that these share
// with it are gathered all the same.
void Pipeline::make(Run& run, const Pass& pass) const {
  BaseShards* const base = model_.language_model().base();
  if (base != nullptr) base->begin(visits_of(pass));
  if (pass.micro_batch < run.micro_batches) {
    if (pass.kind == Kind::kForward) {
      forward(run, pass);
    } else {
      backward(run, pass);
    }
  }
  if (base != nullptr) base->end();
}

at::Tensor Pipeline::run(Run run, int64_t micro_batches) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(model_.build().device);
  run.micro_batches = micro_batches;
  const bool together = model_.language_model().base() != nullptr;
  const int64_t most = together ? grid_.data.max(micro_batches) : micro_batches;
  if (most == 0) return at::empty({0}, options);
  for (int64_t stage = 0; stage < topology_.pipeline; ++stage) {
    run.passes.push_back(pipeline_schedule(topology_, stage, most));
    if (!run.trains) {
      std::erase_if(run.passes.back(),
                    [](const Pass& pass) { return pass.kind == Kind::kBackward; });
    }
  }
  run.losses.resize(static_cast<size_t>(micro_batches));
  const std::vector<Pass>& own = run.passes[static_cast<size_t>(grid_.place.pipeline)];
  // Without backward passes nothing tells that a message was taken; who takes it waits for nothing
  // that comes behind it.
  constexpr size_t kAhead = 2;
  for (size_t i = 0; i < own.size(); ++i) {
    expect(run, own[i]);
    if (i + 1 < own.size()) expect(run, own[i + 1]);  // on its way while this one is made
    if (i + 1 == own.size() && run.before_last) run.before_last();
    make(run, own[i]);
    while (!run.trains && run.outgoing.size() > kAhead) {
      run.outgoing.front().sent.wait();
      run.outgoing.pop_front();
    }
  }
  for (Outgoing& each : run.outgoing) each.sent.wait();
  if (micro_batches == 0) return at::empty({0}, options);
  at::Tensor losses =
      grid_.is_last_stage() ? at::stack(run.losses) : at::empty({micro_batches}, options);
  if (grid_.is_last_stage()) grid_.context.all_reduce(losses);  // of each its share of the tokens
  grid_.pipeline.broadcast(losses, topology_.pipeline - 1);
  return losses;
}

at::Tensor Pipeline::train(int64_t micro_batches, const Batches& batches, double divisor,
                           const std::function<void()>& before_last) {
  return run({batches, divisor, true, before_last}, micro_batches);
}

at::Tensor Pipeline::evaluate(int64_t micro_batches, const Batches& batches) {
  const at::NoGradGuard no_grad;
  return run({batches, 1, false}, micro_batches);
}

bool Pipeline::has_tied_embedding() const {
  return !grid_.embedding.is_one() && model_.config().text.tie_word_embeddings &&
         model_.language_model().word_embeddings().requires_grad();
}

void Pipeline::sum_tied_embeddings() const {
  if (!has_tied_embedding()) return;
  at::Tensor weight = model_.language_model().word_embeddings();
  if (!weight.grad().defined()) weight.mutable_grad() = at::zeros_like(weight);
  grid_.embedding.all_reduce(weight.mutable_grad());
}

}  // namespace trestle
