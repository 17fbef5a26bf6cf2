// A model whose weights several tensor ranks share out computes what one rank does: losses and all
// gradients, of weights and of adapters. A thread is a rank.
#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <mutex>

#include "bridge/load.h"
#include "bridge/load_quantized.h"
#include "formats/rank_share.h"
#include "golden.h"
#include "hf_testing.h"
#include "parallel/grid.h"
#include "parallel/world.h"
#include "peft/lora.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
using testing::Golden;

using Gradients = std::map<std::string, at::Tensor>;

struct Result {
  double loss = 0;
  Gradients gradients;
};

// Loss and gradients of `model` on `input`; those of tensors that all ranks have whole are summed
// over the ranks, as gradients are synchronised.
Result result_of(const Ministral3& model, const ModelInput& input, const at::Tensor& labels_T) {
  const Group& ranks = model.build().groups.tensor;
  const auto [sum, targets] = model.loss_sum(input, labels_T);
  const at::Tensor loss = sum / targets;
  loss.backward();
  Result result{loss.item<double>(), {}};
  for (const auto& entry : model.named_parameters()) {
    if (!entry.value().requires_grad()) continue;
    const at::Tensor& held = entry.value().grad();
    at::Tensor gradient = held.defined() ? held.clone() : at::zeros_like(entry.value());
    if (held_split(entry.key()) == Split::kReplicated) ranks.all_reduce(gradient);
    result.gradients[entry.key()] = gradient;
  }
  return result;
}

void expect_share(const Result& got, const Result& whole, RankOf who, double tolerance) {
  EXPECT_NEAR(got.loss, whole.loss, tolerance * whole.loss);
  ASSERT_EQ(got.gradients.size(), whole.gradients.size());
  for (const auto& [name, gradient] : got.gradients) {
    const at::Tensor& all = whole.gradients.at(name);
    const at::Tensor wanted = share_of(all, held_split(name), who);
    ASSERT_EQ(gradient.sizes(), wanted.sizes()) << name;
    // Of the whole's size: a share may be small beside it.
    const double error = (gradient - wanted).norm().item<double>();
    const double scale = all.norm().item<double>() / std::sqrt(static_cast<double>(who.ranks));
    EXPECT_LE(error, tolerance * scale + 1e-12) << name << " of rank " << who.rank;
  }
}

Build build_of(const Group& tensor, bool sequence_parallel, std::string_view bits = "16") {
  Build build = base_build(at::kFloat, bits, at::kCPU);
  build.groups.tensor = tensor;
  build.groups.sequence_parallel = sequence_parallel;
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

// Pictures of two sizes and packed rows whose tokens four ranks divide.
struct Data {
  ModelInput input;
  at::Tensor labels_T;
};

Data data_of(const Golden& golden) {
  ModelInput input = golden.input();
  at::Tensor labels_T = golden.shifted_labels();
  const int64_t missing = (4 - input.ids_T.size(0) % 4) % 4;
  if (missing == 0) return {input, labels_T};
  std::vector<int64_t> lengths = input.packing.lengths();
  lengths.push_back(missing);
  const at::Tensor ids_T = at::cat({input.ids_T, at::ones({missing}, at::kLong)});
  return {ModelInput::make(ids_T, lengths, input.images_CHW),
          at::cat({labels_T, at::full({missing}, -100, at::kLong)})};
}

struct Case {
  std::string name;
  int64_t ranks;
  bool sequence_parallel;
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
};

INSTANTIATE_TEST_SUITE_P(
    Ranks, TensorParallel,
    ::testing::Values(
        Case{"Tp2", 2, false, false, ""}, Case{"Tp4Tied", 4, false, true, ""},
        Case{"Tp2Sp", 2, true, true, ""}, Case{"Tp4Sp", 4, true, false, ""},
        Case{"Tp4Lora", 4, false, false, "lora"}, Case{"Tp2SpLora", 2, true, true, "lora"},
        Case{"Tp2LoraOfParts",
             2,
             false,
             false,
             "lora",
             "16",
             {"q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "vision.q_proj"}},
        Case{"Tp4Dora", 4, false, false, "dora"}, Case{"Tp2SpDora", 2, true, false, "dora"},
        Case{"Tp2DoraOfParts",
             2,
             false,
             true,
             "dora",
             "16",
             {"k_proj", "o_proj", "up_proj", "down_proj"}},
        Case{"Tp4QLora", 4, true, false, "lora", "4"},
        Case{"Tp2QDora", 2, false, false, "dora", "4"},
        Case{"Tp2Int8", 2, false, true, "lora", "8"}),
    [](const auto& info) { return info.param.name; });

TEST_P(TensorParallel, LossAndGradientsAreThoseOfOneRank) {
  const Case& each = GetParam();
  const Data data = data_of(Golden(each.tied ? "tied" : "untied"));
  const Result whole = result_of(*make(build_of({}, false, each.bits)), data.input, data.labels_T);
  run_ranks(each.ranks, [&](const World& world) {
    const Grid grid(world, {.tensor = each.ranks}, at::kCPU);
    const auto model = make(build_of(grid.tensor, each.sequence_parallel, each.bits));
    const Result got = result_of(*model, data.input, data.labels_T);
    expect_share(got, whole, {world.rank(), each.ranks}, 1e-5);
  });
}

TEST_P(TensorParallel, RecomputedActivationsGiveTheSame) {
  const Case& each = GetParam();
  const Data data = data_of(Golden(each.tied ? "tied" : "untied"));
  const Result whole = result_of(*make(build_of({}, false, each.bits)), data.input, data.labels_T);
  run_ranks(each.ranks, [&](const World& world) {
    const Grid grid(world, {.tensor = each.ranks}, at::kCPU);
    const auto model = make(build_of(grid.tensor, each.sequence_parallel, each.bits));
    model->set_recompute({.granularity = Recompute::Granularity::kFull});
    const Result got = result_of(*model, data.input, data.labels_T);
    expect_share(got, whole, {world.rank(), each.ranks}, 1e-5);
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
    const auto model = load_model(OpenCheckpoint(golden.directory), build_of(grid.tensor, false));
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
