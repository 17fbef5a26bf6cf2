// A run does not go on from a checkpoint whose numbers contradict it or its data: whole checkpoints
// on disk, of which all but what the run says of itself is as it was saved.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "checkpoint/hf_config.h"
#include "errors.h"
#include "megatron/checkpoint.h"
#include "megatron/writer.h"
#include "run/checkpoint.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class HostileProgress : public testing::RunTest {
 protected:
  // Of two sets; the weights are changed behind step 1, and the last checkpoint is of step 2.
  TrainConfig saved() const {
    std::ofstream(directory_ / "second.jsonl")
        << R"({"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "bb"}]})"
        << "\n";
    TrainConfig config = blended(1);
    config.train.exit_interval = 1;
    run(config);
    config = blended(3);
    config.checkpoint.load = config.checkpoint.save;
    config.train.exit_interval = 2;
    Trainer(config, {.keys = {}, .may_change = {"dataset.blend"}}).run();
    return config;
  }
  TrainConfig blended(int64_t weight) const {
    TrainConfig config = this->config("run");
    config.model.params_dtype = "float32";
    config.model.freeze_language_model = config.model.freeze_vision_model = true;
    config.dataset.path_or_dataset = "";
    apply_override(config,
                   fmt::format("dataset.blend=[{{path: {}, weight: {}}}, {{path: {}, weight: 1}}]",
                               (directory_ / "data.jsonl").string(), weight,
                               (directory_ / "second.jsonl").string()));
    return config;
  }
  // What the trainer says of the same checkpoint with `own` for what the run says of itself.
  std::optional<std::string> refusal(const TrainConfig& saved, const Json& own,
                                     const Json& samples = 8) const {
    const MegatronCheckpoint checkpoint(saved.checkpoint.save);
    TrainConfig config = saved;
    config.checkpoint.save = (directory_ / "on").string();
    config.checkpoint.load = (directory_ / fmt::format("changed-{}", ++changed_)).string();
    const Json hf_config = *checkpoint.hf_config();
    TensorList list;
    for (const auto* each : {&checkpoint.tensors(), &checkpoint.state()}) {
      list.insert(list.end(), each->begin(), each->end());
    }
    MegatronWriter writer({.run = config.checkpoint.load,
                           .iteration = 2,
                           .config = parse_hf_config(hf_config, "fixture"),
                           .hf_config = hf_config,
                           .train_state = {{"step", 2}, {"consumed_train_samples", samples}},
                           .run_config = checkpoint.run_config()},
                          list);
    for (const auto& [name, info] : list) writer.write(name, checkpoint.read(name));
    writer.add_object(kProgress, own);
    writer.commit();
    return testing::refusal_of([&] { const Trainer trainer(config); });
  }

 private:
  mutable int changed_ = 0;
};

TEST_F(HostileProgress, IsRefusedInOneLine) {
  const TrainConfig config = saved();
  const Json own = *MegatronCheckpoint(config.checkpoint.save).object(kProgress);
  ASSERT_EQ(own.at("blend_start"), Json({{"sample", 4}, {"taken", {2, 2}}, {"numbers", {0, 1}}}))
      << own;
  EXPECT_EQ(refusal(config, own), std::nullopt);
  const auto blend = [&](const Json& sample, const Json& taken) {
    Json changed = own;
    changed["blend_start"] = {{"sample", sample}, {"taken", taken}};
    return refusal(config, changed);
  };
  const std::string load = "checkpoint.load=" + (directory_ / "changed-").string();
  using testing::expect_mentions;
  expect_mentions(blend(4, {2, 1, 1}),
                  {load, "counts samples of 3 sets, but its dataset.blend has 2"});
  expect_mentions(blend(4, {4}), {load, "counts samples of 1 sets"});
  expect_mentions(blend(4, {2.0, 2.0}), {load, "blend_start.taken is 2.0"});
  expect_mentions(blend(4, {"2", "2"}), {load, "blend_start.taken is \"2\""});
  expect_mentions(blend(4, {-2, 2}), {load, "blend_start.taken is -2"});
  expect_mentions(blend(4, {int64_t{1} << 62, 0}), {load, "blend_start.taken is 4611686"});
  expect_mentions(blend(9, {2, 2}), {load, "blend_start.sample is 9", "from 0 to 8"});
  expect_mentions(blend(-4, {2, 2}), {load, "blend_start.sample is -4"});
  Json other = own;
  other["skipped"] = "x";
  expect_mentions(refusal(config, other), {load, "skipped is \"x\""});
  expect_mentions(refusal(config, own, -8), {load, "consumed_train_samples is -8"});
  expect_mentions(refusal(config, own, int64_t{1} << 60), {load, "consumed_train_samples is 115"});
}

}  // namespace
}  // namespace trestle
