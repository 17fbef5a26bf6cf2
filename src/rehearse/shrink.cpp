#include "rehearse/shrink.h"

#include <algorithm>

#include "bridge/convert.h"
#include "bridge/load.h"
#include "checkpoint/hf_config.h"
#include "linear/quantized.h"
#include "model/ministral3.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr int64_t kHeadDim = 16;
constexpr int64_t kFewChunks = 4;

int64_t rounded_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

Json shrunk_config(const Json& small, const ModelConfig& real, const Topology& topology) {
  Json config = small;
  Json& text = config["text_config"];
  const int64_t heads = real.text.num_attention_heads;
  // What attention writes is cut over the tensor ranks, in whole blocks.
  const int64_t block = QuantizedWeight::kBlock * topology.tensor;
  const int64_t head_dim = rounded_up(heads * kHeadDim, block) / heads;
  text["num_attention_heads"] = heads;
  text["num_key_value_heads"] = real.text.num_query_groups;
  text["head_dim"] = rounded_up(head_dim, 8);
  text["intermediate_size"] = 2 * block;
  text["hidden_size"] = QuantizedWeight::kBlock;
  const int64_t chunks = topology.chunks();
  text["num_hidden_layers"] =
      std::min(std::max(real.text.num_layers, chunks), chunks <= kFewChunks ? 2 * chunks : chunks);
  config["tie_word_embeddings"] = text["tie_word_embeddings"] = real.text.tie_word_embeddings;
  return config;
}

void write_shrunk_model(const fs::path& small, const ModelConfig& real, const Topology& topology,
                        uint64_t seed, const fs::path& output) {
  const OpenCheckpoint model(small);
  const Json json = shrunk_config(model.config_json(), real, topology);
  const ModelConfig config = parse_hf_config(json, "the shrunk model's config");
  Ministral3 random(config);
  random.initialize(seed, /*std=*/0.1);
  write_hf(ModelTensors(random, at::kFloat), config, json, model.side_files(), output);
}

}  // namespace trestle
