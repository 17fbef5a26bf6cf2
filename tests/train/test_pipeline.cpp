// A model cut into the stages of a pipeline computes what one rank does: losses and all gradients,
// in either schedule, whatever trains. A thread is a rank.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <tuple>

#include "bridge/load.h"
#include "bridge/load_quantized.h"
#include "golden.h"
#include "megatron/rank_share.h"
#include "parallel/plan.h"
#include "parallel/share.h"
#include "parallel/world.h"
#include "peft/lora.h"
#include "train/diagnose.h"
#include "train/pipeline.h"

namespace trestle {
namespace {

using testing::Golden;
using Gradients = std::map<std::string, at::Tensor>;

constexpr double kDivisor = 8;

struct Case {
  std::string name;
  Topology topology;
  bool tied = false;
  /// Empty: weights train.
  std::string scheme = {};
  std::vector<std::string> targets = LoraConfig().target_modules;
  Recompute recompute = {};
  /// Of the decoder's layers those that train, from here on, where none but layers do.
  std::optional<int64_t> trains_from = {};
  std::string bits = "16";
  LayerRuns runs = {};
  int64_t micro_batches = 5;
};

void PrintTo(const Case& each, std::ostream* out) { *out << each.name; }

// The golden's model, of eight layers.
ModelConfig deep_config(bool tied) {
  ModelConfig config = OpenCheckpoint(Golden(tied ? "tied" : "untied").directory).config();
  config.text.num_layers = 8;
  config.text.num_attention_heads = 4;  // sizes that a quantised base has blocks of
  config.text.num_query_groups = 2;
  config.text.head_dim = 32;
  config.text.intermediate_size = 256;
  return config;
}

// By turns: pictures of several sizes in rows of one length, packed rows of text, a row without a
// target, and the pictures once more among packed rows.
Batch batch_of(const Golden& golden, int64_t number) {
  const ModelInput pictures = golden.input();
  if (number % 4 == 0) return {pictures, golden.shifted_labels()};
  const at::Tensor words = at::arange(20, 37, at::kLong) + number;
  at::Tensor labels = at::cat({words.narrow(0, 1, 16), at::full({1}, -100, at::kLong)});
  if (number % 4 == 1) return {ModelInput::make(words, {5, 9, 3}), labels};
  if (number % 4 == 2) {
    return {ModelInput::make(words, {17}), at::full({17}, -100, at::kLong)};
  }
  std::vector<int64_t> lengths = pictures.packing.lengths();
  lengths.insert(lengths.begin(), {4, 13});
  return {ModelInput::make(at::cat({words, pictures.ids_T}), lengths, pictures.images_CHW),
          at::cat({labels, golden.shifted_labels()})};
}

std::vector<Batch> batches_of(const Case& each) {
  std::vector<Batch> batches;
  const Golden golden(each.tied ? "tied" : "untied");
  for (int64_t i = 0; i < each.micro_batches; ++i) batches.push_back(batch_of(golden, i));
  return batches;
}

std::shared_ptr<Ministral3> make_model(const Case& each, const Build& build) {
  Ministral3 source(deep_config(each.tied));
  source.initialize(7);
  auto model = std::make_shared<Ministral3>(deep_config(each.tied), build);
  load_weights(*model, RankShare(ModelTensors(source, at::kFloat), build.groups.tensor_rank(),
                                 source.config().text.vocab_size));
  model->train();
  model->set_recompute(each.recompute);
  if (!each.scheme.empty()) {
    LoraConfig peft;
    peft.scheme = each.scheme;
    peft.dim = 6;
    peft.alpha = 9;
    peft.dropout = 0;
    peft.target_modules = each.targets;
    peft.lora_B_init_method = "xavier";
    attach_lora(*model, peft, 11);
  }
  if (!each.trains_from) return model;
  for (const auto& entry : model->named_parameters()) {
    bool trains = false;
    for (int64_t layer = *each.trains_from; layer < 8; ++layer) {
      trains = trains ||
               entry.key().starts_with(fmt::format("language_model.decoder.layers.{}.", layer));
    }
    entry.value().requires_grad_(trains);
  }
  return model;
}

Gradients gradients_of(const Ministral3& model) {
  Gradients gradients;
  for (const auto& entry : model.named_parameters()) {
    if (!entry.value().requires_grad()) {
      EXPECT_FALSE(entry.value().grad().defined()) << entry.key();
      continue;
    }
    gradients[entry.key()] = entry.value().grad();
  }
  return gradients;
}

struct Whole {
  std::vector<double> losses;
  Gradients gradients;
};

// Without a pipeline.
Whole whole_of(const Ministral3& model, const std::vector<Batch>& batches) {
  Whole whole;
  for (const Batch& batch : batches) {
    const auto [sum, targets] = model.loss_sum(batch.input, batch.labels_T);
    whole.losses.push_back(sum.item<double>() / kDivisor);
    if (targets > 0 && sum.requires_grad()) (sum / kDivisor).backward();
  }
  whole.gradients = gradients_of(model);
  return whole;
}

PipelineBatch view_of(const Batch& batch) { return {&batch.input, &batch.labels_T}; }

void expect_losses(const at::Tensor& got, const std::vector<double>& wanted, double scale) {
  ASSERT_EQ(got.size(0), std::ssize(wanted));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double loss = got[static_cast<int64_t>(i)].item<double>();
    EXPECT_NEAR(loss, wanted[i] * scale, 1e-5 * std::abs(wanted[i] * scale) + 1e-9) << i;
  }
}

Build build_of(const Case& each, const Grid& grid, const LayerRuns& runs) {
  Build build = base_build(at::kFloat, each.bits, at::kCPU);
  build.groups.tensor = grid.tensor;
  build.groups.context = grid.context;
  build.groups.sequence_parallel = each.topology.sequence_parallel;
  if (each.topology.pipeline > 1) {
    build.stage = stage_of_runs(each.topology, runs, grid.place.pipeline);
  }
  return build;
}

class ByStages : public ::testing::TestWithParam<Case> {};

constexpr Topology k2{.pipeline = 2}, k4{.pipeline = 4};
constexpr Topology k2x2{.pipeline = 2, .virtual_pipeline = 2};
constexpr Recompute kFull{.granularity = Recompute::Granularity::kFull};

INSTANTIATE_TEST_SUITE_P(
    Pipelines, ByStages,
    ::testing::Values(
        Case{"One", {}}, Case{"Pp2", k2}, Case{"Pp4Tied", k4, true}, Case{"Pp2Tied", k2, true},
        Case{"Pp4", k4}, Case{"Pp8Tied", {.pipeline = 8}, true},
        Case{.name = "Pp3Unequal",
             .topology = {.pipeline = 3},
             .tied = true,
             .runs = {{0, 1}, {1, 6}, {6, 8}}},
        Case{.name = "Pp2x2", .topology = k2x2, .micro_batches = 6},
        Case{.name = "Pp2x2Tied", .topology = k2x2, .tied = true, .micro_batches = 4},
        Case{"Pp2x2OddMicroBatches", k2x2, true},
        Case{"Pp2x4", {.pipeline = 2, .virtual_pipeline = 4}},
        Case{.name = "Pp4x2",
             .topology = {.pipeline = 4, .virtual_pipeline = 2},
             .micro_batches = 8},
        Case{.name = "Pp4OneMicroBatch", .topology = k4, .micro_batches = 1},
        Case{.name = "Pp2x2Full", .topology = k2x2, .tied = true, .recompute = kFull},
        Case{.name = "Pp4Full", .topology = k4, .recompute = kFull},
        Case{"Pp4Lora", k4, true, "lora"}, Case{"Pp2x2Lora", k2x2, false, "lora"},
        Case{.name = "Pp4LoraFull", .topology = k4, .scheme = "lora", .recompute = kFull},
        Case{"Pp2Dora", k2, true, "dora"},
        Case{"Pp4LoraOfTowers", k4, false, "lora", {"vision.q_proj", "projector.linear_1"}},
        Case{"Pp2x2LoraEverywhere", k2x2, true, "lora", {"*", "vision.*", "projector.*"}},
        Case{.name = "Pp4QLora", .topology = k4, .scheme = "lora", .bits = "4"},
        Case{.name = "Pp4LastLayersAlone", .topology = k4, .trains_from = 5},
        Case{.name = "Pp2x2LastLayersAlone", .topology = k2x2, .trains_from = 3},
        Case{"Tp2SpPp2Tied", {.tensor = 2, .pipeline = 2, .sequence_parallel = true}, true},
        Case{"Tp2Pp2x2Lora", {.tensor = 2, .pipeline = 2, .virtual_pipeline = 2}, false, "lora"},
        Case{"Tp2Cp2Pp2", {.tensor = 2, .context = 2, .pipeline = 2}},
        Case{"Cp2Pp2x2Tied", {.context = 2, .pipeline = 2, .virtual_pipeline = 2}, true},
        Case{"Dp2Pp2Tied", {.data = 2, .pipeline = 2}, true},
        Case{.name = "Dp4Pp2OneWithoutMicroBatch",
             .topology = {.data = 4, .pipeline = 2},
             .micro_batches = 3},
        Case{"Tp2Dp2Pp2Dora", {.tensor = 2, .data = 2, .pipeline = 2}, true, "dora"}),
    [](const auto& info) { return info.param.name; });

TEST_P(ByStages, LossesAndGradientsAreThoseOfOneRank) {
  const Case& each = GetParam();
  const std::vector<Batch> batches = batches_of(each);
  const Whole whole =
      whole_of(*make_model(each, base_build(at::kFloat, each.bits, at::kCPU)), batches);
  const LayerRuns runs = each.runs.empty() ? equal_runs(each.topology, 8) : each.runs;
  std::mutex mutex;
  std::set<std::string> seen;
  run_ranks(each.topology.world(), [&](const World& world) {
    const Grid grid(world, each.topology, at::kCPU);
    const auto model = make_model(each, build_of(each, grid, runs));
    Pipeline pipeline(*model, grid);
    // Data ranks take micro-batches in turn.
    std::vector<int64_t> mine;
    for (int64_t i = grid.place.data; i < each.micro_batches; i += each.topology.data) {
      mine.push_back(i);
    }
    const auto source = [&](int64_t i) {
      return view_of(batches[static_cast<size_t>(mine[static_cast<size_t>(i)])]);
    };
    const auto expect = [&](const at::Tensor& losses, double scale) {
      std::vector<double> wanted;
      for (const int64_t i : mine) wanted.push_back(whole.losses[static_cast<size_t>(i)]);
      expect_losses(losses, wanted, scale);
    };
    expect(pipeline.evaluate(std::ssize(mine), source), kDivisor);
    expect(pipeline.train(std::ssize(mine), source, kDivisor), 1);
    pipeline.sum_tied_embeddings();
    for (auto& [name, gradient] : gradients_of(*model)) {
      const Split split = split_of(name);
      const Group& ranks = split == Split::kReplicated ? grid.whole_gradients : grid.gradients;
      const at::Tensor& all = whole.gradients.at(name);
      ASSERT_EQ(ranks.max(gradient.defined()) == 1, all.defined()) << name;
      if (all.defined()) {
        const at::Tensor wanted =
            share_of(all, split, build_of(each, grid, runs).groups.tensor_rank());
        at::Tensor got = gradient.defined() ? gradient : at::zeros_like(wanted);
        ranks.all_reduce(got);
        const double scale = all.norm().item<double>() / std::sqrt(each.topology.tensor);
        EXPECT_LE((got - wanted).norm().item<double>(), 1e-5 * scale + 1e-12) << name;
        // Stages alone make the same sums in the same order, but of a tied embedding's two uses.
        const bool same_sums = each.topology.world() == each.topology.pipeline &&
                               !(each.tied && name.find("word_embeddings") != std::string::npos);
        if (same_sums) EXPECT_TRUE(at::equal(got, wanted)) << name;
      }
      const std::scoped_lock lock(mutex);
      seen.insert(name);
    }
  });
  EXPECT_EQ(seen.size(), whole.gradients.size());
}

// transformers' own, read from its file by each stage.
class GoldenByStages : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, GoldenByStages,
                         ::testing::Values("tied", "untied", "mistral", "text"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(GoldenByStages, LossAndGradients) {
  const Golden golden(GetParam());
  const Batch batch{golden.input(), golden.shifted_labels()};
  const auto whole = golden.model();
  const auto [sum, targets] = whole->loss_sum(batch.input, batch.labels_T);
  const auto divisor = static_cast<double>(targets);
  (sum / divisor).backward();
  const int64_t layers = whole->config().text.num_layers;
  for (const int64_t stages : {int64_t{2}, layers}) {
    const Topology topology{.pipeline = stages};
    run_ranks(stages, [&](const World& world) {
      const Grid grid(world, topology, at::kCPU);
      Build build;
      build.stage = stage_of_runs(topology, equal_runs(topology, layers), grid.place.pipeline);
      const auto model = load_model(OpenCheckpoint(golden.directory), build);
      model->train();
      Pipeline pipeline(*model, grid);
      const at::Tensor loss = pipeline.train(
          1, [&](int64_t) { return view_of(batch); }, divisor);
      testing::expect_near(loss, golden["loss"], 1e-5, "loss");
      pipeline.sum_tied_embeddings();
      const auto all = whole->named_parameters();
      for (const auto& entry : model->named_parameters()) {
        const at::Tensor& wanted = all[entry.key()].grad();
        if (!wanted.defined()) continue;
        EXPECT_LE(testing::relative_error(entry.value().grad(), wanted), 1e-5) << entry.key();
      }
    });
  }
}

// docs/parallel.md: bytes of activations and gradients that each stage sends.
TEST(PipelineTraffic, IsTheFormulas) {
  const Case each{.name = "", .topology = {.pipeline = 4, .virtual_pipeline = 2}};
  const std::vector<Batch> batches = batches_of(each);
  int64_t tokens = 0, learnt = 0;
  for (const Batch& batch : batches) {
    tokens += batch.input.packing.tokens();
    if (batch.labels_T.ne(-100).any().item<bool>()) learnt += batch.input.packing.tokens();
  }
  ASSERT_LT(learnt, tokens);
  run_ranks(4, [&](const World& world) {
    const Grid grid(world, each.topology, at::kCPU);
    Build build;
    build.stage = stage_of_runs(each.topology, equal_runs(each.topology, 8), grid.place.pipeline);
    const auto model = make_model(each, build);
    Pipeline pipeline(*model, grid);
    const auto before = grid.pipeline.traffic().of(Collective::kSend);
    EXPECT_EQ(before.bytes, 0);
    pipeline.train(
        each.micro_batches, [&](int64_t i) { return view_of(batches[static_cast<size_t>(i)]); },
        kDivisor);
    const int64_t row = model->config().text.hidden_size * 4;
    const int64_t ahead = grid.is_last_stage() ? 1 : 2, back = grid.is_first_stage() ? 1 : 2;
    EXPECT_EQ(grid.pipeline.traffic().of(Collective::kSend).bytes,
              (ahead * tokens + back * learnt) * row);
  });
}

TEST(PipelineFlops, OfStagesAddUpToTheModels) {
  for (const std::vector<std::string>& targets :
       {LoraConfig().target_modules, {"vision.q_proj"}, {}}) {
    Case each{.name = "", .topology = {.pipeline = 2, .virtual_pipeline = 2}};
    if (!targets.empty()) each.scheme = "lora";
    each.targets = targets;
    const std::vector<Batch> batches = batches_of(each);
    const auto flops = [&](const ModelFlops& of, const Batch& batch) {
      return of.of(batch.input, batch.input.images_CHW, 7);
    };
    const ModelFlops whole(*make_model(each, {}));
    std::mutex mutex;
    std::vector<double> sums(batches.size(), 0);
    run_ranks(2, [&](const World& world) {
      const Grid grid(world, each.topology, at::kCPU);
      Build build;
      build.stage = stage_of_runs(each.topology, equal_runs(each.topology, 8), world.rank());
      const auto model = make_model(each, build);
      const ModelFlops part(*model, Pipeline(*model, grid).inflow());
      const std::scoped_lock lock(mutex);
      for (size_t i = 0; i < batches.size(); ++i) sums[i] += flops(part, batches[i]);
    });
    for (size_t i = 0; i < batches.size(); ++i) {
      EXPECT_DOUBLE_EQ(sums[i], flops(whole, batches[i])) << i;
    }
  }
}

TEST(PipelineFlops, LevelStagesOfAModelWithATower) {
  ModelConfig config = deep_config(false);
  config.vision->num_layers = 24;  // which weigh as much as some of the decoder's layers
  const Batch batch = batch_of(Golden("untied"), 0);
  const auto targets = batch.labels_T.ne(-100).sum().item<int64_t>();
  const PartCosts costs = part_costs(config, batch.input, targets);
  // The parts are the whole, all of which trains.
  const Ministral3 whole(config, {.device = at::kMeta});
  const double sum =
      std::accumulate(costs.layers.begin(), costs.layers.end(), costs.before + costs.behind);
  const double wanted = ModelFlops(whole).of(batch.input, batch.input.images_CHW, targets);
  EXPECT_NEAR(sum, wanted, 1e-9 * wanted);
  const Topology topology{.pipeline = 2};
  const LayerRuns runs = levelled_runs(topology, costs);
  EXPECT_LT(runs.front().size(), runs.back().size());
  EXPECT_LT(imbalance(topology, runs, costs), imbalance(topology, equal_runs(topology, 8), costs));
  // Without pictures the head is what weighs.
  const Batch words = batch_of(Golden("untied"), 1);
  const PartCosts of_words = part_costs(config, words.input, 1);
  EXPECT_EQ(of_words.before, 0);
  // A frozen base: nothing but adapters gets a gradient of its own.
  const PartCosts frozen = part_costs(config, batch.input, targets, [](Ministral3& part) {
    for (const at::Tensor& each : part.parameters()) each.set_requires_grad(false);
  });
  EXPECT_LT(frozen.layers.front(), costs.layers.front());
  EXPECT_GE(frozen.before, costs.before / 3);
  EXPECT_LT(frozen.before, costs.before / 2.5);
}

// Where a number that is none came from: what is told of the whole model, by whichever stage has
// it.
TEST(PipelineBlame, IsThatOfOneRank) {
  const Case each{.name = "", .topology = k2x2};
  const Batch batch = batch_of(Golden("untied"), 0);
  const std::string layers = "language_model.decoder.layers.";
  // Of a parameter, what it becomes, and what is told.
  const std::vector<std::tuple<std::string, double, std::string>> faults = {
      {"", 0, "no tensor of a second forward"},
      {layers + "5.mlp.linear_fc1.weight", std::nan(""),
       "parameter language_model.decoder.layers.5.mlp.linear_fc1.weight"},
      {"vision_tower.patch_conv.weight", 1e38, "output of the vision tower"},
      {layers + "3.mlp.linear_fc1.weight", 1e38, "output of decoder layer 3"},
      {layers + "4.mlp.linear_fc1.weight", 1e38, "output of decoder layer 4"},
      {"language_model.output_layer.weight", 3e38, "logits"}};
  for (const auto& [name, value, told] : faults) {
    const auto break_it = [&](const Ministral3& model) {
      const at::NoGradGuard no_grad;
      for (const auto& entry : model.named_parameters()) {
        if (entry.key() == name) entry.value().fill_(value);
      }
    };
    const auto whole = make_model(each, {});
    break_it(*whole);
    EXPECT_EQ(first_bad_tensor(*whole, {}, batch), told);
    run_ranks(2, [&](const World& world) {
      const Grid grid(world, each.topology, at::kCPU);
      const auto model = make_model(each, build_of(each, grid, equal_runs(each.topology, 8)));
      break_it(*model);
      EXPECT_EQ(first_bad_tensor(*model, grid, batch), told) << "stage " << world.rank();
    });
  }
}

// A stage that stops for an error ends the others.
TEST(PipelineErrors, AreTheStagesThatBegan) {
  const Case each{.name = "", .topology = {.pipeline = 2}};
  Batch bad = batch_of(Golden("untied"), 0);
  bad.input.images_CHW.pop_back();
  try {
    run_ranks(2, [&](const World& world) {
      const Grid grid(world, each.topology, at::kCPU);
      Build build;
      build.stage = stage_of_runs(each.topology, equal_runs(each.topology, 8), world.rank());
      const auto model = make_model(each, build);
      Pipeline(*model, grid)
          .train(
              1, [&](int64_t) { return view_of(bad); }, 1);
    });
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("image tokens"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace trestle
