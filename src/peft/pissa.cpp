#include "peft/pissa.h"

#include <ATen/ATen.h>

#include <charconv>
#include <tuple>

#include "base/error.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

constexpr const char* kInitialIn = "initial_in";
constexpr const char* kInitialOut = "initial_out";

using Triples = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// torch.svd_lowrank: the range of W by subspace iteration from random columns, then the exact
// decomposition of W within it (Halko et al. 2011, algorithms 4.4 and 5.1).
Triples random_svd(const at::Tensor& w, const at::Tensor& start, int64_t iterations) {
  const auto basis = [](const at::Tensor& columns) {
    return std::get<0>(at::linalg_qr(columns, "reduced"));
  };
  at::Tensor q = basis(at::mm(w, start.to(w.device())));
  for (int64_t i = 0; i < iterations; ++i) q = basis(at::mm(w, basis(at::mm(w.t(), q))));
  auto [u, s, vh] = at::linalg_svd(at::mm(q.t(), w), /*full_matrices=*/false);
  return {at::mm(q, u), s, vh};
}

void start_pair(LowRank& pair, const at::Tensor& weight, int64_t iterations,
                const at::Generator& generator) {
  const int64_t rank = pair.rank();
  if (rank > std::min(weight.size(0), weight.size(1))) {
    user_error("peft.dim={} is over the rank of a weight [{}, {}] that PiSSA would take apart",
               rank, weight.size(0), weight.size(1));
  }
  const at::Tensor start =
      iterations > 0 ? at::randn({weight.size(1), rank}, generator) : at::Tensor();
  if (weight.is_meta()) return;  // of a projection elsewhere, whose numbers are drawn alone
  const at::Tensor w = weight.to(at::kFloat);
  const auto [u, s, vh] = iterations == 0 ? at::linalg_svd(w, /*full_matrices=*/false)
                                          : random_svd(w, start, iterations);
  const at::Tensor root = (s.narrow(0, 0, rank) / pair.scale()).sqrt();
  pair.a.copy_(root.unsqueeze(1) * vh.narrow(0, 0, rank));
  pair.b.copy_(u.narrow(1, 0, rank) * root);
  pair.register_parameter(kInitialIn, pair.a.detach().clone(), /*requires_grad=*/false);
  pair.register_parameter(kInitialOut, pair.b.detach().clone(), /*requires_grad=*/false);
}

at::Tensor initial(const LowRank& pair, const char* name) {
  return pair.named_parameters(/*recurse=*/false)[name];
}

at::Tensor without_initial(const LowRank& pair, const at::Tensor& weight) {
  const at::Tensor a = initial(pair, kInitialIn).to(at::kFloat);
  const at::Tensor b = initial(pair, kInitialOut).to(at::kFloat);
  return at::sub(weight.to(at::kFloat), at::mm(b, a), pair.scale()).to(weight.scalar_type());
}

}  // namespace

std::optional<int64_t> pissa_iterations(const std::string& method) {
  constexpr std::string_view kFast = "pissa_niter_";
  if (method == "pissa") return 0;
  if (!method.starts_with(kFast)) return std::nullopt;
  int64_t count = 0;
  const char* last = method.data() + method.size();
  const auto [end, error] = std::from_chars(method.data() + kFast.size(), last, count);
  if (error != std::errc() || end != last || count < 1 || count > 1000 ||
      method[kFast.size()] == '0') {
    return std::nullopt;
  }
  return count;
}

void start_pissa(const AdapterSite& site, int64_t iterations, const at::Generator& generator) {
  const at::NoGradGuard no_grad;
  Adapter& adapter = *site.linear->adapter();
  site.linear->widen();  // what moves is no code
  const at::Tensor& weight = site.linear->weight;
  if (const auto& whole = adapter.whole()) {
    start_pair(*whole, weight, iterations, generator);
    if (weight.is_meta()) return;
    // As with the pair's other parameters, Megatron has no level between adapter and these.
    for (const char* name : {kInitialIn, kInitialOut}) {
      adapter.register_parameter(name, initial(*whole, name), /*requires_grad=*/false);
    }
    return;
  }
  const std::vector<at::Tensor> parts = site.linear->layout().split(weight, 0);
  for (size_t i = 0; i < adapter.pairs().size(); ++i) {
    if (adapter.pairs()[i]) start_pair(*adapter.pairs()[i], parts[i], iterations, generator);
  }
}

void take_initial_from_base(Ministral3& model) {
  const at::NoGradGuard no_grad;
  for (const AdapterSite& site : adapter_sites(model)) {
    const auto& adapter = site.linear->adapter();
    if (!adapter) continue;
    at::Tensor& weight = site.linear->weight;
    if (const auto& whole = adapter->whole()) {
      if (has_initial(*whole)) weight.copy_(without_initial(*whole, weight));
      continue;
    }
    std::vector<at::Tensor> parts = site.linear->layout().split(weight, 0);
    bool changed = false;
    for (size_t i = 0; i < adapter->pairs().size(); ++i) {
      const auto& pair = adapter->pairs()[i];
      if (!pair || !has_initial(*pair)) continue;
      parts[i] = without_initial(*pair, parts[i]);
      changed = true;
    }
    if (changed) weight.copy_(site.linear->layout().fuse(parts, 0));
  }
}

bool has_initial(const LowRank& pair) {
  return pair.named_parameters(/*recurse=*/false).contains(kInitialIn);
}

PlainPair plain_pair(const LowRank& pair) {
  if (!has_initial(pair)) return {pair.a.detach(), pair.b.detach(), pair.alpha()};
  return {at::cat({pair.a.detach(), initial(pair, kInitialIn).detach()}, 0),
          at::cat({pair.b.detach(), initial(pair, kInitialOut).detach().neg()}, 1),
          2 * pair.alpha()};
}

PlainTensors::PlainTensors(const TensorSource& stored) : stored_(stored) {
  for (const auto& [name, info] : stored.tensors()) {
    const bool in = name.ends_with(std::string(".") + kInitialIn);
    if (!in && !name.ends_with(std::string(".") + kInitialOut)) {
      tensors_.emplace(name, info);
      continue;
    }
    const std::string factor =
        name.substr(0, name.rfind('.')) + (in ? ".linear_in.weight" : ".linear_out.weight");
    const auto found = stored.tensors().find(factor);
    if (found == stored.tensors().end() || found->second != info || info.shape.size() != 2) {
      user_error("{} has no {} of its shape beside it; the checkpoint is incomplete", name, factor);
    }
    initial_.emplace(factor, name);
  }
  for (const auto& [factor, name] : initial_) {
    tensors_.at(factor).shape.at(factor.ends_with(".linear_in.weight") ? 0 : 1) *= 2;
  }
}

at::Tensor PlainTensors::read(const std::string& name) const {
  const auto found = initial_.find(name);
  if (found == initial_.end()) return stored_.read(name);
  const at::Tensor trained = stored_.read(name), first = stored_.read(found->second);
  return name.ends_with(".linear_in.weight") ? at::cat({trained, first}, 0)
                                             : at::cat({trained, first.neg()}, 1);
}

}  // namespace trestle
