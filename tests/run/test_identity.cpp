// Which keys make a run the run that it is.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/json.h"
#include "errors.h"
#include "run/identity.h"

namespace trestle {
namespace {

using testing::expect_mentions;
using testing::refusal_of;

// Another value of every key, so that none is forgotten: keys without one fail the test.
const std::map<std::string, std::string>& other_values() {
  static const std::map<std::string, std::string> table = {
      {"model.tensor_model_parallel_size", "2"},
      {"model.pipeline_model_parallel_size", "2"},
      {"model.virtual_pipeline_model_parallel_size", "2"},
      {"model.num_layers_in_first_pipeline_stage", "2"},
      {"model.num_layers_in_last_pipeline_stage", "2"},
      {"model.account_for_embedding_in_pipeline_split", "true"},
      {"model.account_for_loss_in_pipeline_split", "true"},
      {"model.pipeline_split", "cost"},
      {"model.context_parallel_size", "2"},
      {"model.sequence_parallel", "true"},
      {"model.seq_length", "100"},
      {"model.freeze_language_model", "true"},
      {"model.freeze_vision_model", "true"},
      {"model.freeze_vision_projection", "true"},
      {"model.params_dtype", "float32"},
      {"model.recompute_granularity", "full"},
      {"model.recompute_method", "block"},
      {"model.recompute_num_layers", "2"},
      {"train.train_iters", "9"},
      {"train.train_samples", "99"},
      {"train.num_epochs", "1.5"},
      {"train.global_batch_size", "8"},
      {"train.micro_batch_size", "2"},
      {"train.exit_interval", "5"},
      {"train.exit_duration_in_mins", "5"},
      {"train.on_nan", "skip"},
      {"train.max_steps_on_nan", "3"},
      {"train.loss_spike_factor", "9"},
      {"train.device", "cpu"},
      {"train.deterministic", "true"},
      {"validation.eval_interval", "2"},
      {"validation.eval_iters", "2"},
      {"validation.start_eval_at_iter", "3"},
      {"validation.path_or_dataset", "elsewhere"},
      {"validation.sets", "[{name: a, path: b}]"},
      {"validation.subset", "few"},
      {"validation.split", "test"},
      {"validation.answers", "1"},
      {"validation.max_new_tokens", "7"},
      {"validation.best_metric", "valid_loss"},
      {"optimizer.lr", "2e-3"},
      {"optimizer.min_lr", "1e-6"},
      {"optimizer.weight_decay", "0.2"},
      {"optimizer.adam_beta1", "0.8"},
      {"optimizer.adam_beta2", "0.9"},
      {"optimizer.adam_eps", "1e-7"},
      {"optimizer.clip_grad", "0.5"},
      {"optimizer.use_distributed_optimizer", "false"},
      {"peft.shard_base", "true"},
      {"dist.distributed_timeout_minutes", "5"},
      {"scheduler.lr_decay_style", "linear"},
      {"scheduler.lr_wsd_decay_style", "linear"},
      {"scheduler.lr_wsd_decay_iters", "5"},
      {"scheduler.lr_warmup_iters", "1"},
      {"scheduler.lr_warmup_fraction", "0.1"},
      {"scheduler.start_weight_decay", "0.01"},
      {"scheduler.end_weight_decay", "0.2"},
      {"scheduler.weight_decay_incr_style", "linear"},
      {"scheduler.lr_warmup_init", "1e-7"},
      {"scheduler.lr_decay_iters", "50"},
      {"dataset.maker_name", "parquet"},
      {"dataset.subset", "few"},
      {"dataset.blend", "[{path: a, weight: 1}]"},
      {"dataset.split", "test"},
      {"dataset.shuffle", "false"},
      {"dataset.num_workers", "1"},
      {"dataset.pack_sequences_in_batch", "true"},
      {"dataset.overlong", "drop"},
      {"dataset.image_max_edge", "56"},
      {"dataset.image_max_tokens", "20"},
      {"dataset.feature_cache", "cache"},
      {"dataset.feature_cache_mb", "1"},
      {"peft.scheme", "dora"},
      {"peft.dim", "2"},
      {"peft.alpha", "1"},
      {"peft.dropout", "0.5"},
      {"peft.target_modules", "[linear_qkv]"},
      {"peft.lora_A_init_method", "pissa"},
      {"peft.lora_B_init_method", "normal"},
      {"peft.use_rslora", "true"},
      {"peft.lora_plus_ratio", "2"},
      {"peft.base_bits", "8"},
      {"checkpoint.save", "elsewhere"},
      {"checkpoint.load", "elsewhere"},
      {"checkpoint.ckpt_step", "1"},
      {"checkpoint.finetune", "true"},
      {"checkpoint.load_optim", "false"},
      {"checkpoint.load_rng", "false"},
      {"checkpoint.verify_integrity", "true"},
      {"checkpoint.save_interval", "1"},
      {"checkpoint.most_recent_k", "1"},
      {"checkpoint.save_retain_interval", "1"},
      {"checkpoint.save_optim", "false"},
      {"checkpoint.save_rng", "false"},
      {"checkpoint.async_save", "true"},
      {"checkpoint.also_save_hf_checkpoint", "true"},
      {"checkpoint.hf_source_path", "elsewhere"},
      {"logger.log_interval", "2"},
      {"logger.log_throughput", "true"},
      {"logger.log_params_norm", "true"},
      {"logger.log_progress", "true"},
      {"logger.tensorboard_dir", "elsewhere"},
      {"logger.tensorboard_log_interval", "2"},
      {"logger.log_throughput_to_tensorboard", "true"},
      {"logger.log_memory_to_tensorboard", "true"},
      {"logger.log_world_size_to_tensorboard", "true"},
      {"logger.wandb_project", "p"},
      {"logger.wandb_entity", "e"},
      {"logger.wandb_exp_name", "n"},
      {"logger.wandb_save_dir", "elsewhere"},
      {"logger.mlflow_experiment", "e"},
      {"logger.mlflow_run_name", "n"},
      {"logger.mlflow_tracking_uri", "elsewhere"},
      {"logger.mlflow_tags", "[a=b]"},
      {"logger.mlflow_description", "d"},
      {"logger.mlflow_log_artifacts", "false"},
      {"profiling.use_pytorch_profiler", "true"},
      {"profiling.profile_step_start", "3"},
      {"profiling.profile_step_end", "20"},
      {"profiling.pytorch_profiler_collect_shapes", "true"},
      {"rng.seed", "5"}};
  return table;
}

TEST(Identity, EveryKeyIsSaidToBeTheSameOrFree) {
  const TrainConfig config;
  const RunIdentity saved = identity_of(config, {});
  int64_t same = 0, free = 0;
  for (const FieldText& field : list_fields(config)) {
    if (field.on_resume == OnResume::kSameContent) continue;
    const auto other = other_values().find(field.path);
    ASSERT_NE(other, other_values().end()) << field.path << " has no other value here";
    TrainConfig changed = config;
    set_field(changed, {field.path, other->second});
    const RunIdentity now = identity_of(changed, {});
    const auto said = refusal_of([&] { require_same_run(saved, now, {}, "run"); });
    if (field.on_resume != OnResume::kSame) {
      EXPECT_EQ(said, std::nullopt) << field.path;
      // Checkpoints of runs that differ in nothing else are the same bytes.
      EXPECT_EQ(now.to_json(), saved.to_json()) << field.path;
      ++free;
      continue;
    }
    ASSERT_NE(now.values.at(field.path), saved.values.at(field.path)) << field.path;
    ++same;
    // Key and both values.
    expect_mentions(said, {fmt::format("{}={} (there: ", field.path, now.values.at(field.path)),
                           saved.values.at(field.path), "--allow-change " + field.path});
    EXPECT_NO_THROW(require_same_run(saved, now, {field.path}, "run"));
  }
  // What is read from the tables above; a table that says nothing would pass all of this.
  EXPECT_EQ(same, 27);
  EXPECT_GE(free, 30);
}

TEST(Identity, WhatARunIsMadeOfIsNeverFree) {
  std::map<std::string, OnResume> classes;
  for (const FieldText& field : list_fields(TrainConfig{})) classes[field.path] = field.on_resume;
  for (const char* key : {"peft.scheme",
                          "peft.dim",
                          "peft.alpha",
                          "peft.dropout",
                          "peft.use_rslora",
                          "peft.target_modules",
                          "peft.lora_A_init_method",
                          "peft.lora_B_init_method",
                          "peft.base_bits",
                          "rng.seed",
                          "dataset.shuffle",
                          "dataset.split",
                          "dataset.maker_name",
                          "dataset.overlong",
                          "dataset.image_max_edge",
                          "dataset.image_max_tokens",
                          "dataset.pack_sequences_in_batch",
                          "model.seq_length",
                          "model.params_dtype",
                          "model.freeze_language_model",
                          "model.freeze_vision_model",
                          "model.freeze_vision_projection",
                          "train.global_batch_size",
                          "train.micro_batch_size"}) {
    EXPECT_EQ(classes.at(key), OnResume::kSame) << key;
  }
  for (const char* key : {"checkpoint.pretrained_checkpoint", "dataset.path_or_dataset",
                          "dataset.blend", "peft.adapter_path"}) {
    EXPECT_EQ(classes.at(key), OnResume::kSameContent) << key;
  }
  for (const char* key : {"train.train_iters", "optimizer.lr", "optimizer.min_lr",
                          "dataset.num_workers", "logger.log_interval", "validation.answers"}) {
    EXPECT_EQ(classes.at(key), OnResume::kFree) << key;
  }
}

TEST(Identity, AKeyThatCameLaterHadItsDefault) {
  const TrainConfig config;
  RunIdentity saved = identity_of(config, {});
  saved.values.erase("peft.use_rslora");
  TrainConfig now = config;
  EXPECT_NO_THROW(require_same_run(saved, identity_of(now, {}), {}, "run"));
  now.peft.use_rslora = true;
  EXPECT_REFUSED(require_same_run(saved, identity_of(now, {}), {}, "run"),
                 "peft.use_rslora=true (there: false)");
}

// What one of the two runs does not name, and one set in the place of several.
TEST(Identity, ContentsAreToldInWords) {
  const std::string a(64, 'a'), b(64, 'b');
  const auto of = [](const std::vector<std::string>& overrides,
                     std::map<std::string, std::string> contents) {
    TrainConfig config;
    for (const std::string& each : overrides) apply_override(config, each);
    return identity_of(config, std::move(contents));
  };
  const RunIdentity none = of({}, {});
  const RunIdentity adapter = of({"peft.adapter_path=x"}, {{"peft.adapter_path", a}});
  EXPECT_REFUSED(require_same_run(none, adapter, {}, "run"),
                 "peft.adapter_path=x, SHA-256 aaaaaaaaaaaa (there: not given)");
  EXPECT_REFUSED(require_same_run(adapter, none, {}, "run"),
                 "peft.adapter_path is not given (there: x, SHA-256 aaaaaaaaaaaa)");
  const RunIdentity one = of({"dataset.path_or_dataset=x"}, {{"dataset.path_or_dataset", a}});
  const RunIdentity several = of({"dataset.blend=[{path: y}]"}, {{"dataset.blend", b}});
  EXPECT_REFUSED(require_same_run(several, one, {}, "run"),
                 "another run: dataset.path_or_dataset=x, SHA-256 aaaaaaaaaaaa (there: "
                 "dataset.blend=[{path: y}], SHA-256 bbbbbbbbbbbb); give it what it was made with, "
                 "or let it be with --allow-change dataset.path_or_dataset");
  EXPECT_REFUSED(require_same_run(one, several, {}, "run"),
                 "another run: dataset.blend=[{path: y}], SHA-256 bbbbbbbbbbbb (there: "
                 "dataset.path_or_dataset=x, SHA-256 aaaaaaaaaaaa); give it what it was made with, "
                 "or let it be with --allow-change dataset.blend");
  for (const char* key : {"dataset.blend", "dataset.path_or_dataset"}) {
    EXPECT_EQ(require_same_run(several, one, {key}, "run"), std::set<std::string>{}) << key;
  }
}

// A checkpoint of before names did not count has a digest with them.
TEST(Identity, ContentsOfBothFormsAreKnown) {
  const auto of = [](const std::string& content) {
    TrainConfig config;
    config.dataset.path_or_dataset = "x";
    return identity_of(config, {{"dataset.path_or_dataset", content}});
  };
  RunIdentity now = of("bytes");
  now.named_contents = {{"dataset.path_or_dataset", "name and bytes"}};
  EXPECT_NO_THROW(require_same_run(of("bytes"), now, {}, "run"));
  EXPECT_NO_THROW(require_same_run(of("name and bytes"), now, {}, "run"));
  EXPECT_REFUSED(require_same_run(of("others"), now, {}, "run"), "dataset.path_or_dataset=x");
  EXPECT_EQ(now.to_json()["contents"].size(), 1u);
}

TEST(Identity, KeysThatMayChangeNeedNoPermission) {
  EXPECT_NO_THROW(require_changeable({"peft.alpha", "dataset.path_or_dataset"}));
  EXPECT_REFUSED(require_changeable({"optimizer.lr"}), "has no effect");
  EXPECT_REFUSED(require_changeable({"peft.alhpa"}), "did you mean peft.alpha?");
}

TEST(Identity, ASeedCountsWhereSomethingIsDrawn) {
  TrainConfig config;
  config.dataset.shuffle = false;
  const auto draws = [&](const std::vector<std::string>& overrides) {
    TrainConfig now = config;
    for (const std::string& each : overrides) apply_override(now, each);
    TrainConfig other = now;
    other.rng.seed = 5;
    const auto said = refusal_of(
        [&] { require_same_run(identity_of(now, {}), identity_of(other, {}), {}, "run"); });
    EXPECT_EQ(said.has_value(), now.draws());
    if (said) expect_mentions(said, {"rng.seed=5 (there: "});
    return now.draws();
  };
  EXPECT_FALSE(draws({}));
  EXPECT_TRUE(draws({"dataset.shuffle=true"}));
  EXPECT_FALSE(draws({"peft.dropout=0.1"}));  // of no adapter
  EXPECT_TRUE(draws({"peft.scheme=lora"}));
  EXPECT_TRUE(draws(
      {"peft.scheme=lora", "peft.lora_A_init_method=zero", "peft.lora_B_init_method=normal"}));
  EXPECT_FALSE(draws({"peft.scheme=lora", "peft.lora_A_init_method=zero"}));
  EXPECT_FALSE(draws({"peft.scheme=lora", "peft.lora_A_init_method=pissa"}));
  EXPECT_TRUE(draws({"peft.scheme=lora", "peft.lora_A_init_method=pissa_niter_4"}));
  EXPECT_FALSE(draws({"peft.scheme=lora", "peft.adapter_path=a"}));
  EXPECT_TRUE(draws({"peft.scheme=lora", "peft.adapter_path=a", "peft.dropout=0.1"}));
}

TEST(Identity, HostileOnesAreRefused) {
  for (const char* text : {"3", "{}", R"({"values": {}})", R"({"values": [], "contents": {}})",
                           R"({"values": {"a": 1}, "contents": {}})"}) {
    SCOPED_TRACE(text);
    EXPECT_REFUSED(RunIdentity::from_json(Json::parse(text), "run"), "run: ");
  }
}

}  // namespace
}  // namespace trestle
