#include "run/random_state.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include "base/digest.h"
#include "base/error.h"

namespace trestle {

namespace {

HeldTensor held_by_rank(const std::string& name, const at::Tensor& state, const ShardPlan& plan) {
  const int64_t ranks = plan.topology().world(), bytes = state.numel();
  if (ranks == 1) return {.shard = whole_shard(name, {at::kByte, {bytes}}), .data = state};
  return {.shard = {name,
                    {at::kByte, {ranks, bytes}},
                    {{{rank_of(plan.topology(), plan.place()), 0}, {1, bytes}}}},
          .data = state};
}

int64_t size_in(const Json& run_config, const char* key) {
  const Json model = run_config.is_object() ? run_config.value("model", Json()) : Json();
  const Json size = model.is_object() ? model.value(key, Json()) : Json();
  return size.is_number_integer() ? size.get<int64_t>() : 1;
}

// Whether ranks lie as they did; how many there were the state says.
bool is_same_topology(const Json& run_config, const Topology& topology) {
  return size_in(run_config, "tensor_model_parallel_size") == topology.tensor &&
         size_in(run_config, "pipeline_model_parallel_size") == topology.pipeline &&
         size_in(run_config, "context_parallel_size") == topology.context;
}

uint64_t seed_from(const at::Tensor& state, const Place& place) {
  const at::Tensor bytes = state.contiguous();
  Digest digest{Digest::Kind::kSha256};
  digest.update({static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()});
  digest.update(fmt::format("{} {}", place.data, place.context));
  return std::stoull(digest.hex().substr(0, 16), nullptr, 16);
}

}  // namespace

std::vector<HeldTensor> held_random_state(at::Device device, const ShardPlan& plan) {
  std::vector<HeldTensor> held = {
      held_by_rank(kRandomState, at::detail::getDefaultCPUGenerator().get_state(), plan)};
  if (device.is_cuda()) {
    const auto generator = at::globalContext().defaultGenerator(device);
    held.push_back(held_by_rank(kCardRandomState, generator.get_state(), plan));
  }
  return held;
}

void load_random_state(at::Generator generator, const MegatronCheckpoint& checkpoint,
                       const std::string& name, const ShardPlan& plan) {
  const TensorInfo& info = checkpoint.state().at(name);
  const bool of_one = info.shape.size() == 1;
  if (!of_one && (info.shape.size() != 2 || info.shape[0] < 1)) {
    user_error("{}: {} has shape [{}], neither one rank's nor a row a rank",
               checkpoint.directory().string(), name, fmt::join(info.shape, ", "));
  }
  const auto of_rank = [&](int64_t rank) {
    Shard row = whole_shard(name, info);
    if (!of_one) row.boxes = {{{rank, 0}, {1, info.shape[1]}}};
    return checkpoint.read(row).clone();
  };
  const int64_t ranks = of_one ? 1 : info.shape[0];
  if (ranks == plan.topology().world() &&
      is_same_topology(checkpoint.run_config(), plan.topology())) {
    return generator.set_state(of_rank(rank_of(plan.topology(), plan.place())));
  }
  const at::Tensor first = of_rank(0);
  generator.set_state(first);
  if (plan.place().data == 0 && plan.place().context == 0) return;
  generator.set_current_seed(seed_from(first, plan.place()));
}

}  // namespace trestle
