#include "parallel/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace trestle {

std::vector<int64_t> divisors(int64_t number) {
  std::vector<int64_t> small, large;
  for (int64_t i = 1; i <= number / i; ++i) {
    if (number % i != 0) continue;
    small.push_back(i);
    if (i != number / i) large.push_back(number / i);
  }
  small.insert(small.end(), large.rbegin(), large.rend());
  return small;
}

namespace {

constexpr const char* kTensor = "model.tensor_model_parallel_size";
constexpr const char* kPipeline = "model.pipeline_model_parallel_size";
constexpr const char* kVirtual = "model.virtual_pipeline_model_parallel_size";

// "1, 2, 4 or 8".
std::string any_of(const std::vector<int64_t>& values) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) text += i + 1 == values.size() ? " or " : ", ";
    text += std::to_string(values[i]);
  }
  return text;
}

void require_positive(const Topology& topology) {
  const auto require = [](const char* key, int64_t value) {
    if (value < 1) user_error("{}={}: it is a number of ranks, from 1 on", key, value);
  };
  require(kTensor, topology.tensor);
  require(kPipeline, topology.pipeline);
  require(kVirtual, topology.virtual_pipeline);
  require("model.context_parallel_size", topology.context);
  require("data parallel size", topology.data);
}

void require_tensor(int64_t tensor, const ShardedSizes& sizes) {
  const auto require = [&](int64_t size, const char* what) {
    if (size % tensor == 0) return;
    user_error("{}={} does not divide the model's {} {}; use {}", kTensor, tensor, size, what,
               any_of(tensor_sizes(sizes)));
  };
  require(sizes.query_groups, "query groups");
  require(sizes.heads, "attention heads");
  require(sizes.ffn, "columns of the feed-forward layer");
  require(sizes.vocabulary, "rows of the vocabulary");
}

void require_pipeline(const Topology& topology, const ShardedSizes& sizes) {
  if (topology.pipeline > sizes.layers) {
    user_error("{}={} leaves stages without a layer: the model has {}; use {} or less", kPipeline,
               topology.pipeline, sizes.layers, sizes.layers);
  }
  if (topology.virtual_pipeline == 1) return;
  if (topology.pipeline == 1) {
    user_error("{}={} has no effect with {}=1; leave it out", kVirtual, topology.virtual_pipeline,
               kPipeline);
  }
  const std::vector<int64_t> allowed = virtual_pipeline_sizes(sizes, topology.pipeline);
  if (std::ranges::count(allowed, topology.virtual_pipeline) > 0) return;
  user_error("{}={} times {}={} does not divide the model's {} layers; use {}", kVirtual,
             topology.virtual_pipeline, kPipeline, topology.pipeline, sizes.layers,
             any_of(allowed));
}

}  // namespace

std::string to_string(const Topology& topology) {
  std::string text =
      fmt::format("TP {} CP {} PP {}", topology.tensor, topology.context, topology.pipeline);
  if (topology.virtual_pipeline > 1) text += fmt::format("x{}", topology.virtual_pipeline);
  text += fmt::format(" DP {}", topology.data);
  return topology.sequence_parallel ? text + " SP" : text;
}

std::vector<int64_t> tensor_sizes(const ShardedSizes& sizes) {
  return divisors(
      std::gcd(std::gcd(sizes.query_groups, sizes.heads), std::gcd(sizes.ffn, sizes.vocabulary)));
}

std::vector<int64_t> pipeline_sizes(const ShardedSizes& sizes, int64_t virtual_pipeline) {
  std::vector<int64_t> all;
  if (virtual_pipeline == 1) {
    for (int64_t i = 1; i <= sizes.layers; ++i) all.push_back(i);
    return all;
  }
  for (const int64_t i : divisors(sizes.layers)) {
    if (i > 1 && sizes.layers / i % virtual_pipeline == 0) all.push_back(i);
  }
  return all;
}

std::vector<int64_t> virtual_pipeline_sizes(const ShardedSizes& sizes, int64_t pipeline) {
  if (pipeline == 1 || sizes.layers % pipeline != 0) return {1};
  return divisors(sizes.layers / pipeline);
}

void require_topology(const Topology& topology, const ShardedSizes& sizes) {
  require_positive(topology);
  require_tensor(topology.tensor, sizes);
  require_pipeline(topology, sizes);
  if (topology.sequence_parallel && topology.tensor == 1) {
    user_error("model.sequence_parallel=true has no effect with {}=1; leave it out", kTensor);
  }
}

void require_topology(const Topology& topology, const ShardedSizes& sizes, int64_t world) {
  require_topology(topology, sizes);
  const Topology whole = over_world(topology, world);
  if (whole.data == topology.data) return;
  user_error("{} is {} ranks, but there are {}; data parallel size would be {}",
             to_string(topology), topology.world(), world, whole.data);
}

Topology over_world(Topology topology, int64_t world) {
  require_positive(topology);
  const int64_t one = topology.tensor * topology.context * topology.pipeline;
  if (world < 1 || world % one != 0) {
    user_error(
        "{}={} x model.context_parallel_size={} x {}={} is {} ranks, which does not divide the {} "
        "that there are; start {} or a multiple, or make one of them smaller",
        kTensor, topology.tensor, topology.context, kPipeline, topology.pipeline, one, world, one);
  }
  topology.data = world / one;
  return topology;
}

LayerRun layers_of_chunk(const Topology& topology, int64_t layers, int64_t chunk) {
  // The first layer whose layer * chunks / layers is the chunk.
  const int64_t chunks = topology.chunks();
  const auto first = [&](int64_t c) { return (c * layers + chunks - 1) / chunks; };
  return {first(chunk), first(chunk + 1)};
}

}  // namespace trestle
