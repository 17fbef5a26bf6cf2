// Ranks write one checkpoint together, and ranks of any other topology read it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>

#include "base/file.h"
#include "formats/safetensors.h"
#include "hf_testing.h"
#include "megatron/checkpoint.h"
#include "megatron/integrity.h"
#include "megatron/shard_writer.h"
#include "parallel/by_all.h"
#include "parallel/grid.h"
#include "parallel/world.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;
using testing::NamedTensors;
using testing::same_bits;
using testing::TempDir;

constexpr int64_t kLayers = 4, kHidden = 12, kFfn = 20, kVocabulary = 16, kQkv = 48, kRank = 3;
constexpr const char *kLm = "language_model.", *kState = "optimizer.state.";

ModelConfig config() {
  ModelConfig config;
  config.text.hidden_size = kHidden;
  config.text.intermediate_size = kFfn;
  config.text.num_layers = kLayers;
  config.text.num_attention_heads = 8;
  config.text.num_query_groups = 4;
  config.text.head_dim = 3;
  config.text.vocab_size = kVocabulary;
  return config;
}

std::string layer(int64_t number, const std::string& rest) {
  return fmt::format("{}decoder.layers.{}.{}", kLm, number, rest);
}

at::Tensor draw(at::IntArrayRef shape, at::ScalarType type = at::kBFloat16) {
  return at::randn(shape).to(type);
}

// Everything that a run with all weights trains.
NamedTensors model() {
  NamedTensors all = {
      {"vision_tower.patch_conv.weight", draw({5, 3, 2, 2})},
      {"vision_tower.ln_pre.weight", draw({5})},
      {"multi_modal_projector.linear_1.weight", draw({kHidden, 10})},
      {"language_model.embedding.word_embeddings.weight", draw({kVocabulary, kHidden})}};
  for (int64_t i = 0; i < kLayers; ++i) {
    all.emplace_back(layer(i, "self_attention.linear_qkv.weight"), draw({kQkv, kHidden}));
    all.emplace_back(layer(i, "self_attention.linear_qkv.layer_norm_weight"), draw({kHidden}));
    all.emplace_back(layer(i, "self_attention.linear_proj.weight"), draw({kHidden, 24}));
    all.emplace_back(layer(i, "mlp.linear_fc1.weight"), draw({2 * kFfn, kHidden}));
    all.emplace_back(layer(i, "mlp.linear_fc2.weight"), draw({kHidden, kFfn}));
  }
  all.emplace_back("language_model.decoder.final_layernorm.weight", draw({kHidden}));
  all.emplace_back("language_model.output_layer.weight", draw({kVocabulary, kHidden}));
  return all;
}

// DoRA of all four projections and of one of the vision tower.
NamedTensors adapters() {
  NamedTensors all = {{"vision_tower.q_proj.linear_in.weight", draw({kRank, 5})},
                      {"vision_tower.q_proj.linear_out.weight", draw({5, kRank})}};
  const auto add = [&](const std::string& module, int64_t in, int64_t out) {
    all.emplace_back(module + ".adapter.linear_in.weight", draw({4, in}));
    all.emplace_back(module + ".adapter.linear_out.weight", draw({out, 4}));
    all.emplace_back(module + ".adapter.weight_magnitude", draw({out}));
  };
  for (int64_t i = 1; i < kLayers; ++i) {  // the first layer has none
    add(layer(i, "self_attention.linear_qkv"), kHidden, kQkv);
    add(layer(i, "self_attention.linear_proj"), 24, kHidden);
    add(layer(i, "mlp.linear_fc1"), kHidden, 2 * kFfn);
    add(layer(i, "mlp.linear_fc2"), kFfn, kHidden);
  }
  return all;
}

// What Megatron's layers hold of a tensor on one rank, said anew: the code's own table is tested.
at::Tensor slice(const std::string& name, const at::Tensor& whole, const Topology& topology,
                 const Place& place) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  const auto rows = [&](const at::Tensor& of) {
    return of.chunk(topology.tensor, 0)[place.tensor].contiguous();
  };
  const auto columns = [&] { return whole.chunk(topology.tensor, 1)[place.tensor].contiguous(); };
  if (!has("language_model.") || has("layer_norm") || has("layernorm")) return whole;
  const bool is_row_parallel = has("linear_proj") || has("linear_fc2");
  if (has(".adapter.")) {
    if (has("linear_in")) return is_row_parallel ? columns() : whole;
    if (is_row_parallel) return whole;
  } else if (is_row_parallel) {
    return columns();
  }
  if (!has("linear_fc1")) return rows(whole);
  const auto halves = whole.chunk(2, 0);
  return at::cat({rows(halves[0]), rows(halves[1])});
}

bool is_of_stage(const std::string& name, const Topology& topology, const Place& place) {
  const size_t at = name.find("layers.");
  if (at == std::string::npos || name.find("vision") != std::string::npos) {
    const bool last = name.find("output_layer") != std::string::npos ||
                      name.find("final_layernorm") != std::string::npos;
    return place.pipeline == (last ? topology.pipeline - 1 : 0);
  }
  return std::stoll(name.substr(at + 7)) * topology.pipeline / kLayers == place.pipeline;
}

// The parameters of one rank.
NamedTensors local(const NamedTensors& whole, const Topology& topology, const Place& place) {
  NamedTensors mine;
  for (const auto& [name, tensor] : whole) {
    if (is_of_stage(name, topology, place))
      mine.emplace_back(name, slice(name, tensor, topology, place));
  }
  return mine;
}

struct Trained {
  NamedTensors weights;
  NamedTensors state;  // of each weight three, fp32
};

Trained make_trained(NamedTensors weights) {
  Trained run{std::move(weights), {}};
  for (const char* kind : {"param.", "exp_avg.", "exp_avg_sq."}) {
    for (const auto& [name, tensor] : run.weights) {
      run.state.emplace_back(kState + std::string(kind) + name, draw(tensor.sizes(), at::kFloat));
    }
  }
  return run;
}

// What a rank holds: its parameters and, of the optimizer's state, its share of their elements: all
// parameters behind one another, cut evenly over data and context ranks. With `sharded` false every
// rank keeps all of it.
std::vector<HeldTensor> held_by(const Trained& run, const Topology& topology, int64_t rank,
                                bool sharded) {
  const Place place = place_of(topology, rank);
  const ShardPlan plan(topology, place);
  std::vector<HeldTensor> held;
  for (const auto& [name, tensor] : local(run.weights, topology, place)) {
    held.push_back(plan.held(name, tensor));
  }
  const NamedTensors state = local(run.state, topology, place);
  const int64_t ranks = topology.data * topology.context;
  const int64_t me = place.data * topology.context + place.context;
  for (size_t kind = 0; kind < 3; ++kind) {
    const size_t count = state.size() / 3;
    int64_t all = 0, start = 0;
    for (size_t i = 0; i < count; ++i) all += state[i].second.numel();
    const int64_t share = (all + ranks - 1) / ranks;
    for (size_t i = 0; i < count; ++i) {
      const auto& [name, tensor] = state[kind * count + i];
      const int64_t first = std::clamp<int64_t>(me * share - start, 0, tensor.numel());
      const int64_t last = std::clamp<int64_t>((me + 1) * share - start, 0, tensor.numel());
      start += tensor.numel();
      if (!sharded) {
        held.push_back(plan.held(name, tensor));
      } else if (first < last) {
        held.push_back(plan.held_part(name, tensor.sizes(), first,
                                      tensor.reshape({-1}).narrow(0, first, last - first)));
      }
    }
  }
  return held;
}

std::vector<HeldTensor> written_by(const Trained& run, const Topology& topology, int64_t rank,
                                   bool sharded) {
  return ShardPlan(topology, place_of(topology, rank))
      .to_write(held_by(run, topology, rank, sharded));
}

Group everyone(const World& world) {
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < world.size(); ++i) ranks.push_back(i);
  return world.group("all", ranks, at::kCPU);
}

void save(const Trained& run, const fs::path& path, const Topology& topology, bool sharded = true,
          int64_t iteration = 0) {
  run_ranks(topology.world(), [&](const World& world) {
    MegatronShards shards{written_by(run, topology, world.rank(), sharded)};
    if (world.is_first()) shards.objects["trestle.progress"] = {{"epoch", 3}};
    write_megatron({.run = path, .iteration = iteration, .config = config(), .replace = true},
                   shards, everyone(world));
  });
}

void expect_holds(const MegatronCheckpoint& checkpoint, const Trained& run,
                  const Topology& topology, bool sharded) {
  for (int64_t rank = 0; rank < topology.world(); ++rank) {
    for (const HeldTensor& each : held_by(run, topology, rank, sharded)) {
      EXPECT_TRUE(same_bits(checkpoint.read(each.shard), each.data.reshape({-1})))
          << each.shard.name << " of rank " << rank << " of " << to_string(topology);
    }
  }
}

const std::vector<Topology> kTopologies = {
    {},
    {.tensor = 2},
    {.tensor = 4, .pipeline = 2},
    {.data = 2},
    {.tensor = 2, .data = 2, .pipeline = 2},
    {.tensor = 1, .context = 2, .data = 2, .pipeline = 2},
    {.tensor = 4, .data = 2},
};

class Shards : public ::testing::TestWithParam<bool> {};

TEST_P(Shards, WrittenByAnyTopologyAreReadByAnyOther) {
  at::manual_seed(1);
  const Trained run = make_trained(GetParam() ? adapters() : model());
  for (size_t i = 0; i < kTopologies.size(); i += GetParam() ? 3 : 1) {
    const Topology& topology = kTopologies[i];
    const TempDir scratch;
    const bool sharded = i % 4 != 2;
    save(run, scratch / "run", topology, sharded);
    const MegatronCheckpoint checkpoint(scratch / "run");
    EXPECT_EQ(checkpoint.is_adapter(), GetParam());
    ASSERT_EQ(checkpoint.tensors().size(), run.weights.size());
    ASSERT_EQ(checkpoint.state().size(), run.state.size());
    for (const NamedTensors* all : {&run.weights, &run.state}) {
      for (const auto& [name, tensor] : *all) {
        ASSERT_TRUE(same_bits(checkpoint.read(name), tensor)) << name << to_string(topology);
      }
    }
    for (const Topology& other : kTopologies) expect_holds(checkpoint, run, other, true);
    EXPECT_EQ(checkpoint.object("trestle.progress").value()["epoch"], 3);
    EXPECT_EQ(checkpoint.common_state()["content_metadata"]["distrib_optim_sharding_type"],
              "fully_reshardable");
    for (int64_t rank = 0; rank < topology.world(); ++rank) {
      EXPECT_TRUE(fs::exists(checkpoint.directory() / fmt::format("__{}_0.distcp", rank)));
    }
    // As `inspect --check` looks.
    EXPECT_EQ(integrity_problems(checkpoint.directory()), std::vector<std::string>{});
    for (const auto& [key, info] : checkpoint.reader().tensors()) {
      checkpoint.reader().check(key, TorchDistReader::Holes::kLeadingSlices);
    }
    const auto objects = checkpoint.reader().objects();
    EXPECT_EQ(std::ranges::count_if(objects,
                                    [](const std::string& key) {
                                      return key.find("._extra_state/") != std::string::npos;
                                    }),
              GetParam() ? 0 : 4 * kLayers + 1);
  }
}

INSTANTIATE_TEST_SUITE_P(, Shards, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "adapters" : "weights"; });

TEST(ShardWriter, EveryRankWritesItsShare) {
  const Trained run = make_trained(model());
  for (const Topology& topology : kTopologies) {
    uint64_t all = 0, most = 0;
    for (const NamedTensors* each : {&run.weights, &run.state}) {
      for (const auto& [name, tensor] : *each) all += tensor.nbytes();
    }
    uint64_t written = 0;
    for (int64_t rank = 0; rank < topology.world(); ++rank) {
      uint64_t bytes = 0;
      for (const auto& each : written_by(run, topology, rank, true)) {
        bytes += each.data.nbytes();
      }
      written += bytes;
      most = std::max(most, bytes);
    }
    EXPECT_EQ(written, all) << to_string(topology);
    // Stages are not of one size.
    EXPECT_LT(static_cast<double>(most),
              1.35 * static_cast<double>(all) / static_cast<double>(topology.world()))
        << to_string(topology);
  }
}

// As megatron-bridge's ParallelLinearAdapter and DoRA have them under tensor parallelism of 2.
TEST(ShardWriter, AdaptersAreCutAsTheBridgeCutsThem) {
  const Trained run{adapters(), {}};
  const Topology topology{.tensor = 2, .data = 2};
  std::map<std::string, std::set<std::vector<int64_t>>> chunks;
  for (int64_t rank = 0; rank < topology.world(); ++rank) {
    for (const auto& each : written_by(run, topology, rank, true)) {
      for (const TensorBox& box : each.shard.boxes) {
        std::vector<int64_t> corner = box.offset;
        corner.insert(corner.end(), box.size.begin(), box.size.end());
        chunks[each.shard.name].insert(corner);
      }
    }
  }
  const auto of = [&](const char* rest) { return chunks.at(layer(2, rest)); };
  using Corners = std::set<std::vector<int64_t>>;
  EXPECT_EQ(of("self_attention.linear_qkv.adapter.linear_in.weight"),
            (Corners{{0, 0, 2, kHidden}, {2, 0, 2, kHidden}}));
  EXPECT_EQ(of("self_attention.linear_qkv.adapter.linear_out.weight"),
            (Corners{{0, 0, kQkv / 2, 4}, {kQkv / 2, 0, kQkv / 2, 4}}));
  EXPECT_EQ(of("mlp.linear_fc1.adapter.linear_out.weight"),
            (Corners{{0, 0, 10, 4}, {10, 0, 10, 4}, {20, 0, 10, 4}, {30, 0, 10, 4}}));
  EXPECT_EQ(of("mlp.linear_fc2.adapter.linear_in.weight"),
            (Corners{{0, 0, 4, 10}, {0, 10, 4, 10}}));
  EXPECT_EQ(of("mlp.linear_fc2.adapter.linear_out.weight"), (Corners{{0, 0, 6, 4}, {6, 0, 6, 4}}));
  EXPECT_EQ(of("mlp.linear_fc2.adapter.weight_magnitude"), (Corners{{0, kHidden}}));
}

// Runs of elements of boxes, against numbers counted out.
TEST(ShardWriter, RunsOfElementsAreBoxes) {
  const at::Tensor whole = at::arange(4 * 3 * 2).view({4, 3, 2});
  const std::vector<TensorBox> boxes = {{{1, 0, 0}, {2, 3, 2}}, {{0, 1, 0}, {1, 2, 1}}};
  const at::Tensor flat =
      at::cat({whole.narrow(0, 1, 2).reshape({-1}),
               whole.narrow(0, 0, 1).narrow(1, 1, 2).narrow(2, 0, 1).reshape({-1})});
  for (int64_t first = 0; first <= flat.numel(); ++first) {
    for (int64_t last = first; last <= flat.numel(); ++last) {
      std::vector<at::Tensor> parts = {at::empty({0}, at::kLong)};
      for (const TensorBox& box : elements_of(boxes, first, last)) {
        at::Tensor part = whole;
        for (int64_t axis = 0; axis < 3; ++axis) {
          part = part.narrow(axis, box.offset[axis], box.size[axis]);
        }
        parts.push_back(part.reshape({-1}));
      }
      EXPECT_TRUE(at::cat(parts).equal(flat.narrow(0, first, last - first)))
          << first << ' ' << last;
    }
  }
  EXPECT_EQ(elements_of(boxes, 1, 11).size(), 4u);
  EXPECT_EQ(elements_of({{{}, {}}}, 0, 1), (std::vector<TensorBox>{{{}, {}}}));
}

// Whoever fails, nobody goes on believing that there is a checkpoint, and the older one stays.
TEST(ShardWriter, AFailureOfOneRankIsOneOfAll) {
  const Trained run = make_trained(model());
  const Topology topology{.tensor = 2, .data = 2};
  const TempDir scratch;
  const fs::path path = scratch / "run";
  save(run, path, topology);
  const auto names_in = [&] {
    std::set<std::string> names;
    for (const auto& each : fs::directory_iterator(path)) names.insert(each.path().filename());
    return names;
  };
  const auto before = names_in();
  const auto failing = [&](int64_t culprit, bool late) {
    std::atomic<int> lost = 0, own = 0;
    run_ranks(topology.world(), [&](const World& world) {
      MegatronShards shards{written_by(run, topology, world.rank(), true)};
      if (world.rank() == culprit && !late) shards.tensors.back().data = at::zeros({1});
      try {
        write_megatron({.run = path, .iteration = 1, .config = config()}, shards, everyone(world),
                       {.add = [&](const fs::path&) {
                         if (late) machine_error("the disk is full");
                       }});
      } catch (const LostRank& error) {
        expect_mentions(error.what(), {fmt::format("rank {}: ", culprit),
                                       late ? "the disk is full" : "is not what its shard says"});
        ++lost;
      } catch (const std::exception&) {
        EXPECT_EQ(world.rank(), culprit);
        ++own;
      }
    });
    EXPECT_EQ(lost, topology.world() - 1);
    EXPECT_EQ(own, 1);
    EXPECT_EQ(names_in(), before);
    EXPECT_EQ(MegatronCheckpoint(path).iteration(), 0);
  };
  failing(2, false);
  failing(0, false);
  failing(0, true);
  // A gap that ranks left between them is none either.
  EXPECT_THROW(run_ranks(2,
                         [&](const World& world) {
                           MegatronShards shards{written_by(run, {.data = 2}, world.rank(), true)};
                           const auto is_part = [](const HeldTensor& each) {
                             return each.shard.elements() <
                                    whole_shard("", each.shard.whole).elements();
                           };
                           if (world.rank() == 1) {
                             shards.tensors.erase(std::ranges::find_if(shards.tensors, is_part));
                           }
                           write_megatron({.run = path, .iteration = 1, .config = config()}, shards,
                                          everyone(world));
                         }),
               c10::Error);
  EXPECT_EQ(names_in(), before);
  save(run, path, topology, true, 1);
  EXPECT_EQ(MegatronCheckpoint(path).iteration(), 1);
}

TEST(ShardWriter, DamagedAndMissingFilesAreToldOnce) {
  const Trained run = make_trained(model());
  const TempDir scratch;
  const Topology topology{.tensor = 2, .data = 2};
  save(run, scratch / "run", topology);
  const fs::path file = scratch / "run" / "iter_0000000" / "__2_0.distcp";
  const std::string whole = read_text(file);
  const auto check = [&] {
    const MegatronCheckpoint checkpoint(scratch / "run");
    expect_holds(checkpoint, run, {.pipeline = 2}, true);
  };
  check();
  fs::remove(file);
  expect_mentions(error_of(check), {file.string(), "No such file"});
  EXPECT_EQ(integrity_problems(file.parent_path()).size(), 1u);
  std::ofstream(file, std::ios::binary) << whole.substr(0, whole.size() / 2);
  expect_mentions(error_of(check), {"__2_0.distcp", "cut short or damaged"});
  const at::Tensor of_it = written_by(run, topology, 2, true).front().data.contiguous();
  const size_t place =
      whole.find({static_cast<const char*>(of_it.const_data_ptr()), of_it.nbytes()});
  ASSERT_NE(place, std::string::npos);
  std::string changed = whole;
  changed[place] ^= 1;
  std::ofstream(file, std::ios::binary) << changed;
  expect_mentions(error_of(check), {file.string()});
  EXPECT_EQ(integrity_problems(file.parent_path()).size(), 1u);
}

// A shard of a tensor that is another in the checkpoint.
TEST(ShardWriter, OtherShapesAreRefused) {
  Trained run = make_trained(model());
  const TempDir scratch;
  save(run, scratch / "run", {.tensor = 2});
  const MegatronCheckpoint checkpoint(scratch / "run");
  const std::string head = "language_model.output_layer.weight";
  expect_mentions(error_of([&] {
                    checkpoint.read(whole_shard(head, {at::kFloat, {16, 13}}));
                  }),
                  {head, "[16, 12], not [16, 13]"});
  EXPECT_REFUSED(checkpoint.read(whole_shard("absent", {at::kFloat, {1}})), "no tensor absent");
  // Rows of a padded vocabulary are left, of the optimizer's state too.
  for (const std::string& name : {head, "optimizer.state.exp_avg." + head}) {
    const at::Tensor stored = checkpoint.read(name);
    EXPECT_TRUE(same_bits(checkpoint.read(whole_shard(name, {at::kFloat, {15, 12}})),
                          stored.narrow(0, 0, 15).reshape({-1})));
  }
  EXPECT_REFUSED(
      checkpoint.read(whole_shard(layer(0, "mlp.linear_fc2.weight"), {at::kFloat, {11, 20}})),
      "[12, 20], not [11, 20]");
}

TEST(ByAll, SaysWhoFailed) {
  run_ranks(3, [](const World& world) {
    const Group group = everyone(world);
    EXPECT_EQ(by_all(group, [&] { return std::string(world.rank(), 'a'); }),
              (std::vector<std::string>{"", "a", "aa"}));
    try {
      by_all(group, [&]() -> std::string {
        if (world.rank() != 0) user_error("row {}", world.rank());
        return "fine";
      });
      ADD_FAILURE() << "nothing was thrown";
    } catch (const LostRank& error) {
      EXPECT_EQ(world.rank(), 0);
      EXPECT_STREQ(error.what(), "rank 1: row 1");
    } catch (const UserError& error) {
      EXPECT_EQ(error.what(), fmt::format("row {}", world.rank()));
    }
  });
  EXPECT_EQ(by_all({}, [] { return std::string("alone"); }), std::vector<std::string>{"alone"});
}

}  // namespace
}  // namespace trestle
