// Runs whose ranks are stages of the model, alone and beside ranks of other rows, make the losses,
// norms and weights of one rank. A rank is a thread here.
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <map>
#include <mutex>

#include "bridge/load.h"
#include "data/datasets.h"
#include "data/processor.h"
#include "errors.h"
#include "generate/generator.h"
#include "model/ministral3.h"
#include "parallel/world.h"
#include "train/model_part.h"
#include "train/testing.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;

constexpr int64_t kSteps = 10;
constexpr double kNear = 1e-5;

struct Made {
  std::vector<StepMetrics> steps;
  std::map<std::string, at::Tensor> weights;
};

Made make_steps(Trainer& trainer) {
  Made made;
  for (int64_t i = 0; i < kSteps; ++i) made.steps.push_back(trainer.step());
  for (const auto& entry : trainer.model().named_parameters()) {
    made.weights[entry.key()] = entry.value().detach().clone();
  }
  return made;
}

struct Stages {
  int64_t pipeline, chunks = 1, data = 1;
};

class StageRanks : public testing::RunOfAllKinds {
 protected:
  TrainConfig config(const std::string& name, const std::string& scheme = "") const {
    TrainConfig config = RunOfAllKinds::config(name, scheme);
    config.dataset.image_max_edge = 56;
    config.dataset.feature_cache_mb = 0;
    config.train.global_batch_size = 6;
    config.train.train_iters = kSteps;
    config.optimizer.lr = 1e-4;  // by which differences of rounding stay as small as they are
    config.logger.log_params_norm = true;
    return config;
  }

  static TrainConfig over(TrainConfig config, const Stages& stages) {
    config.model.pipeline_model_parallel_size = stages.pipeline;
    config.model.virtual_pipeline_model_parallel_size = stages.chunks;
    return config;
  }

  void expect_as_one_rank(const TrainConfig& config, const std::vector<Stages>& all) {
    Trainer one(config);
    const Made wanted = make_steps(one);
    for (const Stages& stages : all) {
      const TrainConfig many = over(config, stages);
      std::mutex mutex;
      std::map<std::string, at::Tensor> weights;
      run_ranks(stages.pipeline * stages.data, [&](const World& world) {
        Trainer trainer(many, {}, world);
        const Made made = make_steps(trainer);
        expect_same(made, wanted, stages);
        const std::scoped_lock lock(mutex);
        weights.insert(made.weights.begin(), made.weights.end());
      });
      EXPECT_EQ(weights.size(), wanted.weights.size());
    }
  }

  static void expect_same(const Made& given, const Made& wanted, const Stages& stages) {
    for (size_t i = 0; i < wanted.steps.size(); ++i) {
      const StepMetrics &step = given.steps[i], &one = wanted.steps[i];
      const std::string what = fmt::format("PP {}x{} DP {}, step {}", stages.pipeline,
                                           stages.chunks, stages.data, i + 1);
      EXPECT_NEAR(step.loss, one.loss, kNear * one.loss) << what;
      EXPECT_NEAR(step.grad_norm, one.grad_norm, kNear * one.grad_norm) << what;
      EXPECT_NEAR(*step.params_norm, *one.params_norm, kNear * *one.params_norm) << what;
      EXPECT_NEAR(step.flops, one.flops, 1e-9 * one.flops) << what;
      EXPECT_EQ(step.forwards, one.forwards) << what;
      EXPECT_EQ(step.target_tokens, one.target_tokens) << what;
      EXPECT_EQ(step.images, one.images) << what;
      EXPECT_EQ(step.ranks, stages.pipeline * stages.data);
    }
    for (const auto& [name, weight] : given.weights) {
      const at::Tensor& all = wanted.weights.at(name);
      EXPECT_LE((weight - all).norm().item<double>(), 10 * kNear * all.norm().item<double>())
          << name;
    }
  }
};

TEST_F(StageRanks, FullFineTuningIsThatOfOneRank) {
  expect_as_one_rank(config("sft"), {{2}, {2, 1, 2}, {4}});
}

TEST_F(StageRanks, LoraIsThatOfOneRank) {
  expect_as_one_rank(config("lora", "lora"), {{2, 1, 2}, {2, 2}});
}

TEST_F(StageRanks, PackedRowsOverFrozenTowersAreThoseOfOneRank) {
  TrainConfig config = this->config("packed");
  config.dataset.pack_sequences_in_batch = true;
  config.train.micro_batch_size = 2;
  config.model.freeze_vision_model = true;
  config.model.freeze_vision_projection = true;
  config.dataset.feature_cache_mb = 64;
  expect_as_one_rank(config, {{2, 2}});
}

TEST_F(StageRanks, AnAdapterOfTheWholeModelStartsThem) {
  TrainConfig first = config("adapter", "lora");
  first.train.train_iters = 1;
  first.scheduler.lr_warmup_iters = 0;
  first.optimizer.lr = 1e-2;
  run(first);
  TrainConfig config = this->config("more", "lora");
  config.peft.adapter_path = first.checkpoint.save;
  expect_as_one_rank(config, {{2}});
}

// The second stage has no place for any, and saves and goes on all the same.
TEST_F(StageRanks, AdaptersOfTheTowerAloneAreSaved) {
  TrainConfig config = over(this->config("tower", "lora"), {2});
  config.peft.target_modules = {"vision.*"};
  config.validation.eval_interval = 0;
  for (const int64_t steps : {3, 4}) {
    config.train.train_iters = steps;
    run_ranks(2, [&](const World& world) { Trainer(config, {}, world).run(); });
    const auto mark = fmt::format("iter_{:07}/metadata.json", steps);
    EXPECT_TRUE(std::filesystem::exists(std::filesystem::path(config.checkpoint.save) / mark));
    config.checkpoint.load = config.checkpoint.save;
  }
}

// Loss, and answers to prompts with and without pictures, which all ranks then have.
TEST_F(StageRanks, AValidationIsThatOfOneRank) {
  TrainConfig config = this->config("validated");
  config.validation.path_or_dataset = config.dataset.path_or_dataset;
  config.validation.answers = 5;
  config.validation.max_new_tokens = 6;
  config.train.train_iters = 1;
  const Processor processor(kModel, {config.dataset.image_max_edge, 0});
  const auto sets = Validation::make_all(config, processor);
  ASSERT_EQ(sets.size(), 1u);
  const OpenCheckpoint base(kModel);
  const auto validated = [&](const Grid& grid) {
    const auto model = load_model(base, build_of_rank(config, base.config(), grid, at::kCPU, {}));
    model->train();
    Pipeline pipeline(*model, grid);
    return sets.front()->run(*model, pipeline, nullptr, 1, grid);
  };
  const auto texts = [](const ValidationMetrics& metrics) {
    std::vector<std::string> texts;
    for (const ScoredAnswer& each : metrics.answers) texts.push_back(each.answer);
    return texts;
  };
  const ValidationMetrics wanted = validated({});
  const std::set<std::string> different = [&] {
    const auto all = texts(wanted);
    return std::set(all.begin(), all.end());
  }();
  ASSERT_GT(different.size(), 1u);
  for (const Topology& topology :
       {Topology{.pipeline = 2, .virtual_pipeline = 2}, Topology{.tensor = 2, .pipeline = 2},
        Topology{.data = 2, .pipeline = 2}}) {
    run_ranks(topology.world(), [&](const World& world) {
      const ValidationMetrics given = validated(Grid(world, topology, at::kCPU));
      EXPECT_NEAR(given.loss, wanted.loss, kNear * wanted.loss);
      EXPECT_EQ(texts(given), texts(wanted));
      EXPECT_EQ(given.scores, wanted.scores);
    });
  }
}

TEST_F(StageRanks, PromptsInChunksAreAnsweredAsByOneRank) {
  TrainConfig config = this->config("chunks");
  const OpenCheckpoint base(kModel);
  const Processor processor(kModel, {config.dataset.image_max_edge, 0});
  const auto dataset = make_dataset("jsonl", {.path = config.dataset.path_or_dataset});
  std::vector<Sample> prompts;
  for (int64_t row = 0; row < 3; ++row) {
    Conversation conversation = dataset->row(row);
    conversation.messages.pop_back();
    prompts.push_back(processor.process(std::move(conversation), Ending::kPrompt));
  }
  const auto answers = [&](const Grid& grid) {
    const auto model = load_model(base, build_of_rank(config, base.config(), grid, at::kCPU, {}));
    model->eval();
    const Generator generator(Forward(*model, grid.pipeline), {},
                              {.prefill_chunk_size = 7, .prompt_lookup_num_tokens = 2});
    std::vector<std::vector<int64_t>> ids;
    for (const Generation& each : generator.generate(prompts, {.max_new_tokens = 12}).sequences) {
      ids.push_back(each.ids);
    }
    return ids;
  };
  const auto wanted = answers({});
  run_ranks(2, [&](const World& world) {
    EXPECT_EQ(answers(Grid(world, {.pipeline = 2}, at::kCPU)), wanted);
  });
}

// users' pain point 19: the vision tower's load is uneven over ranks.
TEST_F(StageRanks, SplitByCostAreThoseOfOneRank) {
  TrainConfig config = this->config("cost");
  config.model.seq_length = 4096;
  config.dataset.image_max_edge = 0;
  config.dataset.maker_name = "make_cord_v2_dataset";
  config.dataset.path_or_dataset = "../assets/demo/data";
  Trainer one(config);
  const double wanted = one.step().loss;
  config.model.pipeline_split = "cost";
  std::array<int64_t, 2> layers = {0, 0};
  run_ranks(2, [&](const World& world) {
    Trainer trainer(over(config, {2}), {}, world);
    const LayerRun run = trainer.model().build().stage->chunks.front();
    layers[static_cast<size_t>(world.rank())] = run.size();
    EXPECT_NEAR(trainer.step().loss, wanted, kNear * wanted);
  });
  // The tower weighs as much as layers do.
  EXPECT_LT(layers[0], layers[1]);
  EXPECT_EQ(layers[0] + layers[1], 4);
}

TEST_F(StageRanks, AreRefusedByNameWhereTheModelHasOtherSizes) {
  const auto refused = [&](const TrainConfig& config, int64_t ranks) {
    return error_of(
        [&] { run_ranks(ranks, [&](const World& world) { Trainer trainer(config, {}, world); }); });
  };
  expect_mentions(refused(over(config("a"), {3, 3}), 3),
                  {"model.virtual_pipeline_model_parallel_size=3"});
  TrainConfig uneven = over(config("b"), {2});
  uneven.model.num_layers_in_first_pipeline_stage = 100;
  expect_mentions(refused(uneven, 2), {"model.num_layers_in_first_pipeline_stage=100"});
  uneven.model.pipeline_split = "cost";
  expect_mentions(refused(uneven, 2), {"model.pipeline_split=cost", "contradict"});
}

}  // namespace
}  // namespace trestle
