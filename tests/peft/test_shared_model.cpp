// A model that tensor and context ranks share computes what one rank does: losses and all
// gradients, of weights and of adapters. A thread is a rank.

#include <functional>
#include <map>

#include "bridge/load.h"
#include "bridge/load_quantized.h"
#include "flash_on_cpu.h"
#include "fp8_testing.h"
#include "golden.h"
#include "hf_testing.h"
#include "megatron/rank_share.h"
#include "parallel/grid.h"
#include "parallel/world.h"
#include "peft/lora.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
using testing::Golden;
using testing::TempDir;

using Gradients = std::map<std::string, at::Tensor>;

struct Result {
  double loss = 0;
  Gradients gradients;
};

// Loss and gradients of `model` on `input`; those of tensors that all ranks have whole are summed
// over the ranks, as gradients are synchronised.
Result result_of(const Ministral3& model, const ModelInput& input, const at::Tensor& labels_T) {
  const ModelGroups& groups = model.build().groups;
  const auto [sum, targets] = model.loss_sum(input, labels_T);
  at::Tensor loss = sum / targets;
  loss.backward();
  loss = loss.detach();
  groups.context.all_reduce(loss);
  Result result{loss.item<double>(), {}};
  for (const auto& entry : model.named_parameters()) {
    if (!entry.value().requires_grad()) continue;
    const at::Tensor& held = entry.value().grad();
    at::Tensor gradient = held.defined() ? held.clone() : at::zeros_like(entry.value());
    groups.context.all_reduce(gradient);
    if (split_of(entry.key()) == Split::kReplicated) groups.tensor.all_reduce(gradient);
    result.gradients[entry.key()] = gradient;
  }
  return result;
}

void expect_share(const Result& got, const Result& whole, RankOf who, double tolerance) {
  EXPECT_NEAR(got.loss, whole.loss, tolerance * whole.loss);
  ASSERT_EQ(got.gradients.size(), whole.gradients.size());
  for (const auto& [name, gradient] : got.gradients) {
    const at::Tensor& all = whole.gradients.at(name);
    const at::Tensor wanted = share_of(all, split_of(name), who);
    ASSERT_EQ(gradient.sizes(), wanted.sizes()) << name;
    // Of the whole's size: a share may be small beside it.
    const double error = (gradient - wanted).norm().item<double>();
    const double scale = all.norm().item<double>() / std::sqrt(static_cast<double>(who.ranks));
    EXPECT_LE(error, tolerance * scale + 1e-12) << name << " of rank " << who.rank;
  }
}

Build build_of(const Grid& grid, std::string_view bits = "16") {
  Build build = base_build(at::kFloat, bits, at::kCPU);
  build.groups = {grid.tensor, grid.context, grid.topology.sequence_parallel};
  return build;
}

// As the golden's, but of sizes that four ranks share, and blocks of a quantised base too.
ModelConfig wide_config(bool tied) {
  ModelConfig config = OpenCheckpoint(Golden(tied ? "tied" : "untied").directory).config();
  config.text.num_attention_heads = 8;
  config.text.num_query_groups = 4;
  config.text.head_dim = 32;
  config.text.intermediate_size = 256;
  return config;
}

// Pictures of two sizes and packed rows of lengths that no number of ranks divides.
struct Data {
  ModelInput input;
  at::Tensor labels_T;
};

Data data_of(const Golden& golden) {
  const ModelInput whole = golden.input();
  const at::Tensor labels_T = golden.shifted_labels();
  const std::vector<int64_t>& before = whole.packing.lengths();
  std::vector<int64_t> lengths;
  std::vector<at::Tensor> ids, labels;
  int64_t start = 0;
  for (size_t row = 0; row < before.size(); ++row) {
    lengths.push_back(before[row] - static_cast<int64_t>(row));  // cut behind the pictures
    ids.push_back(whole.ids_T.narrow(0, start, lengths.back()));
    labels.push_back(labels_T.narrow(0, start, lengths.back()));
    start += before[row];
  }
  return {ModelInput::make(at::cat(ids), lengths, whole.images_CHW), at::cat(labels)};
}

struct Case {
  std::string name;
  Topology topology;
  bool tied;
  std::string scheme;
  std::string bits = "16";
  std::vector<std::string> targets = LoraConfig().target_modules;
};

void PrintTo(const Case& each, std::ostream* out) { *out << each.name; }

class TensorParallel : public ::testing::TestWithParam<Case> {
 protected:
  // Filled from one rank's model, whose values every topology shares.
  std::shared_ptr<Ministral3> make(const Build& build) const {
    const Case& each = GetParam();
    const ModelConfig config = wide_config(each.tied);
    Ministral3 whole(config);
    whole.initialize(7);
    auto model = std::make_shared<Ministral3>(config, build);
    load_weights(*model, RankShare(ModelTensors(whole, at::kFloat), build.groups.tensor_rank(),
                                   config.text.vocab_size));
    if (each.scheme.empty()) return model;
    LoraConfig peft{.scheme = each.scheme, .dim = 6, .alpha = 9, .target_modules = each.targets};
    peft.lora_B_init_method = "xavier";
    attach_lora(*model, peft, 11);
    return model;
  }

  void expect_as_one_rank(const Recompute& recompute) const {
    const Case& each = GetParam();
    const Data data = data_of(Golden(each.tied ? "tied" : "untied"));
    const Result whole = result_of(*make(build_of({}, each.bits)), data.input, data.labels_T);
    run_ranks(each.topology.world(), [&](const World& world) {
      const Grid grid(world, each.topology, at::kCPU);
      const auto model = make(build_of(grid, each.bits));
      model->set_recompute(recompute);
      const Result got = result_of(*model, data.input, data.labels_T);
      expect_share(got, whole, {grid.place.tensor, each.topology.tensor}, 1e-5);
    });
  }
};

INSTANTIATE_TEST_SUITE_P(
    Ranks, TensorParallel,
    ::testing::Values(
        Case{"Tp2", {.tensor = 2}, false, ""}, Case{"Tp4Tied", {.tensor = 4}, true, ""},
        Case{"Tp2Sp", {.tensor = 2, .sequence_parallel = true}, true, ""},
        Case{"Tp4Sp", {.tensor = 4, .sequence_parallel = true}, false, ""},
        Case{"Tp4Lora", {.tensor = 4}, false, "lora"},
        Case{"Tp2SpLora", {.tensor = 2, .sequence_parallel = true}, true, "lora"},
        Case{"Tp2LoraOfParts",
             {.tensor = 2},
             false,
             "lora",
             "16",
             {"q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "vision.q_proj"}},
        Case{"Tp4Dora", {.tensor = 4}, false, "dora"},
        Case{"Tp2SpDora", {.tensor = 2, .sequence_parallel = true}, false, "dora"},
        Case{"Tp2DoraOfParts",
             {.tensor = 2},
             true,
             "dora",
             "16",
             {"k_proj", "o_proj", "up_proj", "down_proj"}},
        Case{"Tp4QLora", {.tensor = 4, .sequence_parallel = true}, false, "lora", "4"},
        Case{"Tp2QDora", {.tensor = 2}, false, "dora", "4"}, Case{"Cp2", {.context = 2}, true, ""},
        Case{"Cp4", {.context = 4}, false, ""}, Case{"Cp2Lora", {.context = 2}, false, "lora"},
        Case{"Cp2Tp2Dora", {.tensor = 2, .context = 2}, true, "dora"},
        Case{"Cp2Tp2Sp", {.tensor = 2, .context = 2, .sequence_parallel = true}, false, ""},
        Case{"Cp2Tp4SpQLora",
             {.tensor = 4, .context = 2, .sequence_parallel = true},
             false,
             "lora",
             "4"},
        Case{"Tp2Int8", {.tensor = 2}, true, "lora", "8"}),
    [](const auto& info) { return info.param.name; });

// users' pain point 19: the vision tower's load is uneven over ranks.
TEST_P(TensorParallel, LossAndGradientsAreThoseOfOneRank) { expect_as_one_rank({}); }

TEST_P(TensorParallel, RecomputedActivationsGiveTheSame) {
  expect_as_one_rank({.granularity = Recompute::Granularity::kFull});
}

// A base in FP8 stays so, each rank's share with its scales.
class Fp8OfRanks : public ::testing::TestWithParam<testing::Fp8Form> {
 protected:
  const TempDir temp_;
  std::shared_ptr<Ministral3> make(const Grid& grid) const {
    auto model = load_model(OpenCheckpoint(temp_ / "model"), build_of(grid, "fp8"));
    LoraConfig peft{.scheme = "lora", .dim = 4, .alpha = 8, .lora_B_init_method = "xavier"};
    attach_lora(*model, peft, 3);
    return model;
  }
};

INSTANTIATE_TEST_SUITE_P(Scales, Fp8OfRanks,
                         ::testing::Values(testing::kPerTensor, testing::kPerRow,
                                           testing::Fp8Form{"blocks", 20, 6}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Fp8OfRanks, LossAndGradientsAreThoseOfOneRank) {
  testing::write_fp8_model(temp_ / "model", GetParam());
  const at::Tensor ids_T = at::arange(20, 57, at::kLong);
  const ModelInput input = ModelInput::make(ids_T, {20, 17});
  const Result whole = result_of(*make({}), input, ids_T);
  run_ranks(2, [&](const World& world) {
    const Grid grid(world, {.tensor = 2}, at::kCPU);
    const auto model = make(grid);
    for (const auto& [name, linear] : projections(*model)) {
      const bool is_layer = name.find("decoder.layers.") != std::string::npos;
      EXPECT_EQ(linear->fp8() != nullptr, is_layer) << name;
    }
    expect_share(result_of(*model, input, ids_T), whole, {world.rank(), 2}, 1e-5);
  });
}

TEST(Fp8OfRanksErrors, ABlockOfScalesThatIsCut) {
  const TempDir temp;
  testing::write_fp8_model(temp / "model", testing::kPerBlock);  // 300 columns
  run_ranks(2, [&](const World& world) {
    const Grid grid(world, {.tensor = 2}, at::kCPU);
    const auto load = [&] { load_model(OpenCheckpoint(temp / "model"), build_of(grid, "fp8")); };
    if (world.rank() == 0) {
      load();  // its blocks begin where the rank's columns do
    } else {
      expect_mentions(error_of(load), {"128 columns", "2 tensor ranks", "base_bits=16"});
    }
  });
}

// The way of a card: a rank's pieces and their keys as sequences of packed rows.
TEST(ContextParallel, AttentionOfPackedRowsGivesTheSame) {
  const testing::FlashOnCpu flash;
  const Golden golden("tied");
  const Data data = data_of(golden);
  const auto make = [&](const Build& build) {
    return load_model(OpenCheckpoint(golden.directory), build);
  };
  const Result whole = result_of(*make(build_of({})), data.input, data.labels_T);
  const int before = flash.counts().forwards;
  run_ranks(2, [&](const World& world) {
    const Grid grid(world, {.context = 2}, at::kCPU);
    const Result got = result_of(*make(build_of(grid)), data.input, data.labels_T);
    expect_share(got, whole, {}, 1e-5);
  });
  EXPECT_GT(flash.counts().forwards, before);
}

// What docs/parallel.md says that a rank sends in a micro-batch, by the ring's factor.
struct TrafficOfModel {
  int64_t T, N, D, L, KV;  // tokens, labelled ones, width, layers, groups * head dim
  int64_t b = 4;           // bytes an element

  static TrafficOfModel of(const Ministral3& model, const Data& data) {
    const TextConfig& text = model.config().text;
    const int64_t labelled = (data.labels_T != -100).sum().item<int64_t>();
    return {data.input.packing.tokens(), labelled, text.hidden_size, text.num_layers,
            text.num_query_groups * text.head_dim};
  }
  // Of one rank of two each way: an all-reduce of B bytes sends B, a gather or scatter B / 2.
  int64_t tensor() const { return (4 * L + 2) * T * D * b + 3 * N * 4; }
  // The backward pass gathers what qkv and fc1 read again, and the embedding's gradient.
  int64_t spread() const { return (5 * L + 2) * T * D * b + T * D * b / 2 + 3 * N * 4; }
  int64_t context() const { return 2 * L * (T * 2 * KV * b) / 2; }
};

TEST(Traffic, IsWhatTheFormulasSay) {
  const Golden golden("text");
  const Data whole{golden.input(), golden.shifted_labels()};
  run_ranks(2, [&](const World& world) {
    const auto sent = [&](const Topology& topology) {
      const Grid grid(world, topology, at::kCPU);
      const auto model = load_model(OpenCheckpoint(golden.directory), build_of(grid));
      const TrafficOfModel formula = TrafficOfModel::of(*model, whole);
      EXPECT_EQ(formula.T % 4, 0) << "no padding";
      model->loss_sum(whole.input, whole.labels_T).first.backward();
      return std::tuple(grid.tensor.traffic().bytes(), grid.context.traffic().bytes(), formula);
    };
    const auto [tensor, no_context, formula] = sent({.tensor = 2});
    EXPECT_EQ(tensor, formula.tensor());
    EXPECT_EQ(no_context, 0);
    const auto [no_tensor, context, same] = sent({.context = 2});
    EXPECT_EQ(context, formula.context());
    EXPECT_EQ(no_tensor, 0);
    const auto [spread, none, again] = sent({.tensor = 2, .sequence_parallel = true});
    EXPECT_EQ(spread, formula.spread());
  });
}

// transformers' own, read from its file by each rank.
class GoldenOfRanks : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, GoldenOfRanks,
                         ::testing::Values("tied", "untied", "mistral", "text"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(GoldenOfRanks, LogitsAndLoss) {
  const Golden golden(GetParam());
  run_ranks(2, [&](const World& world) {
    const Grid grid(world, {.tensor = 2}, at::kCPU);
    const auto model = load_model(OpenCheckpoint(golden.directory), build_of(grid));
    const auto [sum, targets] = model->loss_sum(golden.input(), golden.shifted_labels());
    testing::expect_near(sum / targets, golden["loss"], 1e-5, "loss");
    const at::NoGradGuard no_grad;
    testing::expect_near(model->logits(golden.input()), golden["logits"], 1e-4, "logits");
  });
}

TEST(TensorParallelErrors, NameWhatWouldDo) {
  const Golden golden("untied");  // 2 query groups, 160 ids, ffn 80
  run_ranks(3, [&](const World& world) {
    const Grid grid(world, {.tensor = 3}, at::kCPU);
    const ModelConfig config = OpenCheckpoint(golden.directory).config();
    const Ministral3 whole(config);
    expect_mentions(error_of([&] {
                      RankShare(ModelTensors(whole, at::kFloat),
                                grid.tensor.size() == 3 ? RankOf{0, 3} : RankOf{},
                                config.text.vocab_size);
                    }),
                    {"3 tensor ranks", "tensor_model_parallel_size"});
  });
}

}  // namespace
}  // namespace trestle
