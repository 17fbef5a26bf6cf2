// Runs on several data sets by weight: exact on resume, and of these sets and weights alone.
#include <gtest/gtest.h>

#include <algorithm>

#include "errors.h"
#include "train/testing.h"
#include "train/training_data.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class BlendedRun : public testing::RunTest {
 protected:
  TrainConfig blended(const std::string& name, double weight = 0.75,
                      const std::string& second = "second.jsonl") const {
    if (!fs::exists(directory_ / second)) {
      std::ofstream(directory_ / second)
          << R"({"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "bb"}]})"
          << "\n"
          << R"({"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "cc"}]})"
          << "\n";
    }
    TrainConfig config = this->config(name, "lora");
    config.model.params_dtype = "float32";
    config.dataset.path_or_dataset = "";
    apply_override(
        config,
        fmt::format("dataset.blend=[{{path: {}, weight: {}}}, {{path: {}, weight: 1}}]",
                    (directory_ / "data.jsonl").string(), weight, (directory_ / second).string()));
    return config;
  }
  static std::string refusal(TrainConfig config, const TrainConfig& saved) {
    config.checkpoint.load = saved.checkpoint.save;
    return testing::error_of([&] { const Trainer trainer(config); });
  }
};

TEST_F(BlendedRun, ResumesToTheBit) { expect_exact_resume(blended("blend")); }

TEST_F(BlendedRun, LearnsFromBothAndSaysHowMuch) {
  const TrainConfig config = blended("both");
  const Trainer trainer(config);
  const auto said = describe_training_data(config, trainer.dataset());
  ASSERT_EQ(said.size(), 2u);
  testing::expect_mentions(said[0], {"0.4286 of ", "data.jsonl (7 rows; 10 of 24 samples"});
  testing::expect_mentions(said[1], {"second.jsonl (2 rows; 14 of 24 samples, 7 passes)"});
  EXPECT_EQ(row_names(trainer.dataset(), {1, 8}),
            fmt::format("row 1 of {}, row 1 of {}", (directory_ / "data.jsonl").string(),
                        (directory_ / "second.jsonl").string()));
  EXPECT_NE(losses(blended("other", 3)), losses(config));
  // Two steps of 2 samples, and the other four of 10.
  TrainConfig small = blended("small");
  small.train.global_batch_size = 2;
  small.train.exit_interval = 2;
  run(small);
  small.train.global_batch_size = 5 * small.train.micro_batch_size;
  small.checkpoint.load = small.checkpoint.save;
  const Trainer rest(small, {.keys = {}, .may_change = {"train.global_batch_size"}});
  testing::expect_mentions(describe_training_data(small, rest.dataset(), rest.progress())[0],
                           {" of 44 samples"});
}

TEST_F(BlendedRun, GoesOnWithTheSameSetsAndWeightsAlone) {
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 3;
  run(saved);
  testing::expect_mentions(refusal(blended("a", 0.5), saved), {"dataset.blend", "there: "});
  TrainConfig one = config("b", "lora");
  one.model.params_dtype = "float32";
  // One line of both keys, of which one is enough.
  testing::expect_mentions(
      refusal(one, saved),
      {fmt::format("is of another run: dataset.path_or_dataset={}, SHA-256 ",
                   one.dataset.path_or_dataset),
       " (there: dataset.blend=[{path: ", "--allow-change dataset.path_or_dataset"});
  EXPECT_EQ(refusal(one, saved).find("nothing"), std::string::npos);
  for (const char* key : {"dataset.blend", "dataset.path_or_dataset"}) {
    TrainConfig let = one;
    let.checkpoint.load = saved.checkpoint.save;
    EXPECT_NO_THROW(const Trainer trainer(let, {.keys = {}, .may_change = {key}})) << key;
  }
  std::ofstream(directory_ / "third.jsonl")
      << R"({"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "d"}]})"
      << "\n";
  testing::expect_mentions(refusal(blended("c", 0.75, "third.jsonl"), saved), {"dataset.blend"});
  // The same rows may lie elsewhere.
  fs::create_directory(directory_ / "moved");
  fs::copy_file(directory_ / "second.jsonl", directory_ / "moved" / "second.jsonl");
  TrainConfig moved = blended("d", 0.75, "moved/second.jsonl");
  moved.checkpoint.load = saved.checkpoint.save;
  EXPECT_EQ(run(moved).size(), 3u);
  fs::copy_file(directory_ / "second.jsonl", directory_ / "other name.jsonl");
  TrainConfig renamed = blended("e", 0.75, "other name.jsonl");
  renamed.checkpoint.load = saved.checkpoint.save;
  EXPECT_NO_THROW(const Trainer trainer(renamed));
}

// 0.75 and 1 are 3 and 4: of the same blend the weights that it began with stay.
TEST_F(BlendedRun, WeightsAreSharesOfTheirSum) {
  const std::vector<double> whole = losses(blended("whole"));
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 2;
  run(saved);
  const auto times = [&](TrainConfig config, double factor) {
    for (BlendSource& each : config.dataset.blend) each.weight = *each.weight * factor;
    config.checkpoint.load = saved.checkpoint.save;
    config.checkpoint.save = saved.checkpoint.save;
    return config;
  };
  TrainConfig next = times(blended("saved"), 4);
  next.train.exit_interval = 2;
  const std::vector<double> second = losses(next);
  const std::vector<double> third = losses(times(blended("saved"), 0.1));
  ASSERT_EQ(second.size(), 2u);
  ASSERT_EQ(third.size(), 2u);
  EXPECT_EQ(second, (std::vector<double>{whole[2], whole[3]}));
  EXPECT_EQ(third, (std::vector<double>{whole[4], whole[5]}));
}

// Sets are told by what they are: turned about, the run is the same to the bit.
TEST_F(BlendedRun, GoesOnWithItsSetsInAnotherOrder) {
  const std::vector<double> whole = losses(blended("whole", 1));
  TrainConfig saved = blended("saved", 1);
  saved.train.exit_interval = 3;
  run(saved);
  TrainConfig turned = blended("saved", 1);
  std::ranges::reverse(turned.dataset.blend);
  turned.checkpoint.load = saved.checkpoint.save;
  EXPECT_EQ(losses(turned), (std::vector<double>{whole[3], whole[4], whole[5]}));
  TrainConfig other = blended("other", 3);
  std::ranges::reverse(other.dataset.blend);
  other.checkpoint.load = (fs::path(saved.checkpoint.save) / "iter_0000003").string();
  ::testing::internal::CaptureStderr();
  const Trainer trainer(other, {.keys = {}, .may_change = {"dataset.blend"}});
  testing::expect_mentions(::testing::internal::GetCapturedStderr(),
                           {"its sets weigh 0.75, 0.25 of all (there: 0.5, 0.5); each goes on "
                            "behind what it gave, 6, 6 samples"});
}

// Of equal sets each is told by its weight.
TEST_F(BlendedRun, GoesOnWithOneSetTwiceInAnotherOrder) {
  const auto twice = [&](const char* name) { return blended(name, 0.75, "data.jsonl"); };
  const std::vector<double> whole = losses(twice("whole"));
  TrainConfig saved = twice("saved");
  saved.train.exit_interval = 3;
  run(saved);
  TrainConfig turned = twice("turned");
  std::ranges::reverse(turned.dataset.blend);
  turned.checkpoint.load = saved.checkpoint.save;
  EXPECT_EQ(losses(turned), (std::vector<double>{whole[3], whole[4], whole[5]}));
}

TEST_F(BlendedRun, ABlendOfOneSetIsThatSet) {
  TrainConfig one = config("one", "lora");
  one.model.params_dtype = "float32";
  const auto blend_of = [&](const std::string& file, const std::string& name) {
    TrainConfig config = one;
    config.checkpoint.save = (directory_ / name).string();
    config.dataset.path_or_dataset = "";
    apply_override(config, fmt::format("dataset.blend=[{{path: {}, weight: 3}}]",
                                       (directory_ / file).string()));
    return config;
  };
  const std::vector<double> whole = losses(one);
  one.train.exit_interval = 2;
  one.checkpoint.save += "-parts";
  run(one);
  ::testing::internal::CaptureStderr();
  TrainConfig blend = blend_of("data.jsonl", "one-parts");
  blend.checkpoint.load = blend.checkpoint.save;
  EXPECT_EQ(losses(blend), (std::vector<double>{whole[2], whole[3]}));
  one.checkpoint.load = one.checkpoint.save;
  EXPECT_EQ(losses(one), (std::vector<double>{whole[4], whole[5]}));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("from sample"), std::string::npos) << said;
  fs::copy_file(directory_ / "data.jsonl", directory_ / "other.jsonl");
  std::ofstream(directory_ / "other.jsonl", std::ios::app)
      << R"({"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "d"}]})"
      << "\n";
  testing::expect_mentions(
      refusal(blend_of("other.jsonl", "other"), one),
      {"is of another run: dataset.blend=", "(there: dataset.path_or_dataset"});
}

// One set goes, another comes, and one stays: it goes on in its own order.
TEST_F(BlendedRun, ASetThatStaysGoesOnBehindItsRows) {
  TrainConfig saved = blended("saved", 1);
  saved.train.exit_interval = 3;
  run(saved);
  std::ofstream(directory_ / "third.jsonl")
      << R"({"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "d"}]})"
      << "\n";
  TrainConfig other = blended("other", 1, "third.jsonl");
  other.dataset.blend[0].data.path = (directory_ / "second.jsonl").string();
  other.checkpoint.load = saved.checkpoint.save;
  ::testing::internal::CaptureStderr();
  const Trainer trainer(other, {.keys = {}, .may_change = {"dataset.blend"}});
  testing::expect_mentions(
      ::testing::internal::GetCapturedStderr(),
      {"dataset.blend: from sample 12 on it is of other sets: ",
       "second.jsonl goes on behind the 6 samples that it gave; ",
       "third.jsonl begins at its first row; sets that are no longer there: 1"});
  const BlendStart& start = trainer.progress().blend_start;
  EXPECT_EQ(start.taken, (std::vector<int64_t>{6, 0}));
  EXPECT_EQ(start.numbers, (std::vector<int64_t>{1, 2}));
  // Counts are of the whole run, 24 samples.
  const auto said = describe_training_data(other, trainer.dataset(), trainer.progress());
  ASSERT_EQ(said.size(), 3u);
  testing::expect_mentions(said[0], {"second.jsonl (2 rows; 12 of 24 samples, 6 passes)"});
  testing::expect_mentions(said[1], {"third.jsonl (1 rows; 6 of 24 samples, 6 passes)"});
  testing::expect_mentions(
      said[2], {"given before sample 12 and counted with none of these sets: 6 of 24 samples"});
}

// A run of one set is a blend of that one, and comes to be of one again.
TEST_F(BlendedRun, OneSetGoesOnInABlendAndAlone) {
  constexpr int64_t kRows = 7, kSamples = 24;
  TrainConfig one = config("saved", "lora");
  one.model.params_dtype = "float32";
  one.train.exit_interval = 2;
  // Of the set's rows those from sample `from` on.
  const auto rows = [&](const Trainer& trainer, int64_t from) {
    BlendOrder order(trainer.dataset().parts(), static_cast<uint64_t>(one.rng.seed),
                     one.dataset.shuffle, trainer.progress().blend_start);
    std::vector<int64_t> all;
    for (int64_t i = from; i < kSamples; ++i) {
      if (order.row(i) < kRows) all.push_back(order.row(i));
    }
    return all;
  };
  const auto going_on = [&](TrainConfig config) {
    config.checkpoint.load = config.checkpoint.save = one.checkpoint.save;
    config.train.exit_interval = 2;
    return config;
  };
  const Asked asked{.keys = {}, .may_change = {"dataset.blend"}};
  Trainer first(one);
  const std::vector<int64_t> whole = rows(first, 0);
  first.run();

  ::testing::internal::CaptureStderr();
  Trainer several(going_on(blended("saved", 1)), asked);
  testing::expect_mentions(::testing::internal::GetCapturedStderr(),
                           {"dataset.blend: from sample 8 on it is of other sets: ",
                            "data.jsonl goes on behind the 8 samples that it gave; ",
                            "second.jsonl begins at its first row"});
  EXPECT_EQ(several.progress().blend_start.taken, (std::vector<int64_t>{8, 0}));
  EXPECT_EQ(rows(several, 8), std::vector<int64_t>(whole.begin() + 8, whole.begin() + 16));
  several.run();

  Trainer alone(going_on(one), asked);
  EXPECT_EQ(alone.progress().blend_start.taken, std::vector<int64_t>{12});
  EXPECT_EQ(rows(alone, 16), std::vector<int64_t>(whole.begin() + 12, whole.begin() + 20));
  TrainConfig part = going_on(one);
  part.train.exit_interval = 1;
  Trainer(part, asked).run();
  const Trainer rest(going_on(one));
  EXPECT_EQ(rows(rest, 20), std::vector<int64_t>(whole.begin() + 16, whole.begin() + 20));
}

TEST_F(BlendedRun, OtherWeightsGoOnBehindTheRowsThatWereTaken) {
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 2;
  run(saved);
  TrainConfig other = blended("saved", 3);
  other.checkpoint.load = saved.checkpoint.save;
  other.train.exit_interval = 4;
  const Asked asked{.keys = {}, .may_change = {"dataset.blend"}};
  ::testing::internal::CaptureStderr();
  Trainer trainer(other, asked);
  testing::expect_mentions(
      ::testing::internal::GetCapturedStderr(),
      {"dataset.blend: from sample 8 on its sets weigh 0.75, 0.25 of all (there: 0.4286, 0.5714); "
       "each goes on behind what it gave, 4, 4 samples"});
  EXPECT_EQ(trainer.progress().blend_start.taken, (std::vector<int64_t>{4, 4}));
  const auto said = describe_training_data(other, trainer.dataset(), trainer.progress());
  // 4 + 12 and 4 + 4 of them; 0.75 of all would be 18 and 6.
  testing::expect_mentions(said[0], {"0.75 of ", "16 of 24 samples"});
  testing::expect_mentions(said[1], {"0.25 of ", "8 of 24 samples"});
  std::vector<double> parts;
  trainer.run([&](const StepMetrics& metrics) { parts.push_back(metrics.loss); });
  // What changed once is kept: the rest is that of a run that is not stopped again.
  TrainConfig rest = other;
  rest.train.exit_interval.reset();
  for (const double loss : losses(rest)) parts.push_back(loss);
  TrainConfig unbroken = other;
  unbroken.train.exit_interval.reset();
  unbroken.checkpoint.save = (directory_ / "unbroken").string();
  unbroken.checkpoint.ckpt_step = 2;
  std::vector<double> whole;
  Trainer(unbroken, asked).run([&](const StepMetrics& metrics) { whole.push_back(metrics.loss); });
  EXPECT_EQ(parts, whole);
}

TEST_F(BlendedRun, OtherSetsAndOrdersAreTold) {
  TrainConfig saved = blended("saved");
  saved.train.exit_interval = 2;
  run(saved);
  const auto told = [&](TrainConfig config, const std::set<std::string>& may_change) {
    config.checkpoint.load = saved.checkpoint.save;
    ::testing::internal::CaptureStderr();
    const Trainer trainer(config, {.keys = {}, .may_change = may_change});
    const auto said = describe_training_data(config, trainer.dataset(), trainer.progress());
    return ::testing::internal::GetCapturedStderr() + said.front();
  };
  std::ofstream(directory_ / "third.jsonl")
      << R"({"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "d"}]})"
      << "\n";
  TrainConfig all_others = blended("a", 1, "third.jsonl");
  all_others.dataset.blend.erase(all_others.dataset.blend.begin());
  testing::expect_mentions(
      told(all_others, {"dataset.blend"}),
      {"dataset.blend: other sets than the run was saved with: from sample 8 on",
       "16 of 24 samples"});
  TrainConfig one = config("b", "lora");
  one.model.params_dtype = "float32";
  testing::expect_mentions(told(one, {"dataset.blend", "dataset.path_or_dataset"}),
                           {"dataset.path_or_dataset: from sample 8 on it is of other sets: ",
                            "data.jsonl goes on behind the 4 samples that it gave; sets that are "
                            "no longer there: 1"});
  one.dataset.path_or_dataset = (directory_ / "third.jsonl").string();
  testing::expect_mentions(told(one, {"dataset.path_or_dataset"}),
                           {"dataset.path_or_dataset: other data than the run was saved with"});
  TrainConfig seed = blended("c");
  seed.rng.seed = 7;
  testing::expect_mentions(
      told(seed, {"rng.seed"}),
      {"rng.seed=7 (there: 1234): from sample 8 on rows come in another order"});
  const std::string same = told(blended("d"), {});
  EXPECT_EQ(same.find("from sample"), std::string::npos) << same;
}

TEST_F(BlendedRun, IsNotValidatedUnlessDataAreNamed) {
  TrainConfig config = blended("valid");
  config.validation.eval_interval = 2;
  ::testing::internal::CaptureStderr();
  { const Trainer trainer(config); }
  testing::expect_mentions(::testing::internal::GetCapturedStderr(),
                           {"no validation: no set of dataset.blend is measured by itself"});
  config.validation.eval_interval = 2;
  EXPECT_REFUSED(const Trainer trainer(config, {.keys = {"validation.eval_interval"}}),
                 "validation.eval_interval has no effect: dataset.blend has no validation split");
  apply_override(config, fmt::format("validation.sets=[{{name: x, path: {}}}]",
                                     (directory_ / "data.jsonl").string()));
  ::testing::internal::CaptureStderr();
  { const Trainer trainer(config, {.keys = {"validation.eval_interval"}}); }
  testing::expect_mentions(::testing::internal::GetCapturedStderr(), {"validation data x: "});
}

// A run directory is no place for what is read.
TEST_F(BlendedRun, SetsDoNotLieAmongARunsFiles) {
  TrainConfig config = blended("place");
  apply_override(
      config, fmt::format("dataset.blend=[{{path: {}/place/metrics.jsonl}}]", directory_.string()));
  EXPECT_REFUSED(const Trainer trainer(config), "dataset.blend");
}

}  // namespace
}  // namespace trestle
