// Megatron Bridge's keys: that each of them is known, and what becomes of it.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/file.h"
#include "errors.h"
#include "recipes/bridge_keys.h"
#include "recipes/effects.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;

std::map<std::string, std::string> values_of(const TrainConfig& config) {
  std::map<std::string, std::string> values;
  for (const FieldText& each : list_fields(config)) values[each.path] = each.value;
  return values;
}

SettledRun settled(const std::vector<Assignment>& file,
                   const std::vector<Assignment>& command_line) {
  return settle("ministral3_3b_finetune_config", file, command_line);
}

TEST(BridgeKeys, EachOfTheBridgeIsKnown) {
  const std::vector<std::string> keys = bridge_key_names();
  ASSERT_GT(keys.size(), 800);
  const auto ours = values_of({});
  for (const std::string& key : keys) {
    const BridgeKeys* row = find_bridge_key(key);
    ASSERT_NE(row, nullptr) << key;
    // A key of both is taken as it is, and only such a one.
    EXPECT_EQ(row->how == BridgeHow::kTaken, ours.contains(key)) << key;
  }
}

TEST(BridgeKeys, TheTableSpeaksOfKeysThatExist) {
  const auto ours = values_of({});
  for (const BridgeKeys& row : bridge_keys()) {
    const std::string what = fmt::format("{}.{}", row.section, row.names);
    if (row.how == BridgeHow::kRenamed) {
      EXPECT_TRUE(ours.contains(std::string(row.words))) << what;
    } else if (row.how != BridgeHow::kTaken) {
      EXPECT_FALSE(row.words.empty()) << what;
    }
    // Else nothing would be left of it that could be said.
    if (row.how == BridgeHow::kRefused) {
      EXPECT_FALSE(row.values.empty()) << what;
    }
  }
  // No row hides a key of ours.
  for (const auto& [key, value] : ours) {
    const BridgeKeys* row = find_bridge_key(key);
    if (row != nullptr) {
      EXPECT_EQ(row->how, BridgeHow::kTaken) << key;
    }
  }
}

TEST(BridgeKeys, BothSpellingsAreOneKey) {
  struct Case {
    std::string theirs, value, ours, becomes;
  };
  const std::vector<Case> cases = {
      {"train.eval_iters", "3", "validation.eval_iters", "3"},
      {"dataset.source.dataset_name", "cord_v2", "dataset.maker_name", "make_cord_v2_dataset"},
      {"dataset.source.schema_adapter", "medpix", "dataset.maker_name", "make_medpix_dataset"},
      {"dataset.maker_name", "raven", "dataset.maker_name", "make_raven_dataset"},
      {"dataset.maker_name", "make_raven_dataset", "dataset.maker_name", "make_raven_dataset"},
      {"dataset.source.path_or_dataset", "a.parquet", "dataset.path_or_dataset", "a.parquet"},
      {"dataset.source.subset", "raven", "dataset.subset", "raven"},
      {"dataset.validation_source.split", "test", "validation.split", "test"},
      {"dataset.validation_source.subset", "ai2d", "validation.subset", "ai2d"},
      {"dataset.seq_length", "512", "model.seq_length", "512"},
      {"dataset.enable_in_batch_packing", "True", "dataset.pack_sequences_in_batch", "true"},
      {"dataset.dataloader_type", "single", "dataset.shuffle", "false"},
      {"mixed_precision", "fp32", "model.params_dtype", "float32"},
      {"model.params_dtype", "torch.float32", "model.params_dtype", "float32"},
      {"+dataset.seq_length", "512", "model.seq_length", "512"},
      {"++train.train_iters", "7", "train.train_iters", "7"},
  };
  for (const auto& [theirs, value, ours, becomes] : cases) {
    const SettledRun run = settled({}, {{theirs, value}});
    EXPECT_EQ(values_of(run.config).at(ours), becomes) << theirs << "=" << value;
    EXPECT_TRUE(run.asked.keys.contains(ours)) << theirs;
    EXPECT_TRUE(run.notes.empty()) << theirs << ": " << run.notes.front();
  }
}

TEST(BridgeKeys, WhatChangesNothingIsToldAndTheRestRefused) {
  const auto before = to_yaml(settled({}, {}).config);
  const auto note = [&](const std::string& key, const std::string& value) {
    const SettledRun run = settled({}, {{key, value}});
    EXPECT_EQ(to_yaml(run.config), before) << key;
    return fmt::format("{}", fmt::join(run.notes, " | "));
  };
  EXPECT_EQ(
      note("ddp.overlap_grad_reduce", "True"),
      "ddp.overlap_grad_reduce=True has no effect here: how ranks work together is settled here "
      "(docs/parallel.md); results are the same without it");
  expect_mentions(note("ddp.grad_reduce_in_fp32", "false"),
                  {"always summed and applied in float32"});
  EXPECT_NE(note("train.manual_gc", "true").find("Python's own housekeeping"), std::string::npos);
  EXPECT_NE(note("tokenizer.vocab_size", "5").find("checkpoint.pretrained_checkpoint"),
            std::string::npos);

  // No sentence speaks of one process, where there may be many.
  for (const BridgeKeys& row : bridge_keys()) {
    EXPECT_EQ(row.words.find("nothing to exchange"), row.words.npos) << row.names;
  }
  // What is off here too asks for nothing.
  EXPECT_EQ(note("optimizer.optimizer", "adam"), "");
  EXPECT_EQ(note("ft.enable_ft_package", "False"), "");
  EXPECT_EQ(note("model.virtual_pipeline_model_parallel_size", "null"), "");

  const auto refused = [&](const std::string& key, const std::string& value) {
    return error_of([&] { settled({}, {{key, value}}); });
  };
  EXPECT_EQ(refused("optimizer.optimizer", "muon"),
            "optimizer.optimizer=muon: Adam is the one optimizer here (AdamW)");
  EXPECT_EQ(refused("model.hidden_size", "4096"),
            "model.hidden_size=4096: read from checkpoint.pretrained_checkpoint; leave it out");
  EXPECT_EQ(refused("dataset.source.dataset_name", "squad"),
            "dataset.source.dataset_name=squad: must be one of cord_v2, medpix, raven");
  for (const char* ranks : {"[0, 1]", "[]", "[1]"}) {
    EXPECT_EQ(refused("profiling.profile_ranks", ranks),
              fmt::format("profiling.profile_ranks={}: rank 0 alone is traced", ranks));
  }
  expect_mentions(refused("mixed_precision", "fp16_mixed"), {"must be one of bf16_mixed"});
  for (const char* given : {"~train.train_iters", "~train.train_iters=5"}) {
    EXPECT_EQ(error_of([&] { parse_override(given); }),
              fmt::format("{} removes a key in Hydra's words; KEY=null gives it the recipe's value",
                          given));
  }
  expect_mentions(refused("ddp_overlap", "1"), {"unknown option ddp_overlap"});
}

// What a file of the Bridge has was typed by nobody: of another version it has other keys.
TEST(BridgeKeys, AFileOfAnotherVersionIsTakenWithWhatIsKnown) {
  const std::vector<Assignment> file = {
      {"_target_", "megatron.bridge.training.config.ConfigContainer"},
      {"train._target_", "megatron.bridge.training.config.TrainingConfig"},
      {"train.train_iters", "7"},
      {"train.future_thing", "1"},
      {"model.of_tomorrow", std::nullopt},
      {"future.group.key", "[1, 2]"}};
  const SettledRun run = settled(file, {});
  EXPECT_EQ(run.config.train.train_iters, 7);
  EXPECT_EQ(run.notes,
            std::vector<std::string>{"--config: left out what this version does not know: "
                                     "train.future_thing, model.of_tomorrow, future.group.key"});
  // Typed, it is an error, beside such a file too.
  const Assignment typed = {"train.future_thing", "1"};
  expect_mentions(error_of([&] { settled(file, {typed}); }), {"unknown option train.future_thing"});
  expect_mentions(error_of([&] { settled({typed}, {}); }), {"unknown option train.future_thing"});
}

// A row of a whole section, or of a beginning, is none of what the section does not have.
TEST(BridgeKeys, AMisspeltKeyIsNone) {
  for (const auto& [key, meant] : std::map<std::string, std::string>{
           {"ddp.overlap_grad_reduc", "ddp.overlap_grad_reduce"},
           {"tokenizer.vocab_sise", "tokenizer.vocab_size"},
           {"dist.local_ranc", "dist.local_rank"},
           {"comm_overlap.tp_comm_overlab", "comm_overlap.tp_comm_overlap"},
           {"mixed_precision.grad_reduce_in_fp31", "mixed_precision.grad_reduce_in_fp32"},
           {"optimizer.sgd_momentun", "optimizer.sgd_momentum"},
           {"model.moe_router_topq", "model.moe_router_topk"},
           {"model.cuda_graph_scop", "model.cuda_graph_scope"},
           {"checkpoint.ckpt_convert_formad", "checkpoint.ckpt_convert_format"},
           {"ft.calc_ft_timeout", "ft.calc_ft_timeouts"},
           {"logger.moe_routing_trace_paht", "logger.moe_routing_trace_path"},
           {"logger.log_throughputt", "logger.log_throughput"},
           {"train.train_itres", "train.train_iters"}}) {
    const std::string line = error_of([&] { settled({}, {{key, "1"}}); });
    expect_mentions(line, {"unknown option " + key + ";", "did you mean " + meant});
    EXPECT_EQ(error_of([&] { settled({{key, "1"}}, {}); }), line);
  }
  for (const char* key : {"ddp.nonsense", "foo.bar", "optimizer.xyz"}) {
    EXPECT_EQ(
        error_of([&] {
          settled({}, {{key, "1"}});
        }),
        fmt::format("unknown option {}; trestle recipes --keys lists those that there are", key));
  }
  // Other versions of the Bridge have other keys; what such a one wrote was not typed.
  const std::vector<Assignment> written = {
      {"_target_", "megatron.bridge.training.config.ConfigContainer"}, {"ddp.of_1_0", "1"}};
  EXPECT_EQ(settled(written, {}).notes.size(), 1);
  // Mappings have whatever keys their owner likes.
  EXPECT_REFUSED(settled({}, {{"env_vars.NCCL_DEBUG", "INFO"}}), "set it in the environment");
}

TEST(BridgeKeys, ValuesAreComparedAsSuch) {
  using Pair = std::pair<const char*, const char*>;
  for (const auto& [wanted, given] : {Pair{"0.0", "0.00"},
                                      {"0.0", "0"},
                                      {"1e-4", "0.0001"},
                                      {"inf", "Infinity"},
                                      {"null", "None"},
                                      {"null", "~"},
                                      {"false", "False"},
                                      {"false", "FALSE"},
                                      {"false", "0"},
                                      {"true", "on"},
                                      {"[0]", "[ 0 ]"},
                                      {"[0, 1]", "[0,1.0]"},
                                      {"{}", "{ }"},
                                      {"adam", "'adam'"},
                                      {"-1", "-1.0"}}) {
    EXPECT_TRUE(same_value(wanted, given)) << wanted << " " << given;
  }
  for (const auto& [wanted, given] : {Pair{"0.0", "0.01"},
                                      {"0.0", "false"},
                                      {"1", "true"},
                                      {"null", "0"},
                                      {"false", "null"},
                                      {"false", "true"},
                                      {"[0]", "[0, 1]"},
                                      {"[]", "{}"},
                                      {"adam", "Adam"},
                                      {"0", "0x0"}}) {
    EXPECT_FALSE(same_value(wanted, given)) << wanted << " " << given;
  }
  const auto notes = [](const std::vector<Assignment>& line) { return settled({}, line).notes; };
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"model.attention_dropout", "0.00"},
                                          {"model.hidden_dropout", "0e0"},
                                          {"optimizer.fp16", "FALSE"},
                                          {"optimizer.grad_norm_skip_threshold", "Infinity"},
                                          {"scheduler.lr_warmup_samples", "0.0"},
                                          {"profiling.profile_ranks", "[ 0 ]"}}) {
    EXPECT_TRUE(notes({{key, value}}).empty()) << key;
  }
  EXPECT_REFUSED(settled({}, {{"model.attention_dropout", "0.10"}}),
                 "model.attention_dropout=0.10");
  EXPECT_TRUE(notes({{"optimizer.lr", "1e-4"}, {"optimizer.lr", "0.0001"}}).empty());
  EXPECT_EQ(notes({{"optimizer.lr", "1e-4"}, {"optimizer.lr", "0.0002"}}).size(), 1);
}

TEST(BridgeKeys, ErrorsSpeakOfWhatWasTyped) {
  const auto refused = [&](const std::vector<Assignment>& file,
                           const std::vector<Assignment>& line) {
    return error_of([&] { settled(file, line); });
  };
  const std::string told = "(dataset.seq_length is model.seq_length here)";
  expect_mentions(refused({}, {{"dataset.seq_length", "many"}}), {"model.seq_length=many", told});
  expect_mentions(refused({{"dataset.seq_length", "0"}}, {}), {"model.seq_length=0", told});
  const SettledRun run = settled({}, {{"train.eval_interval", "7"}, {"dataset.seq_length", "5"}});
  const auto later = [&](const char* message) {
    return error_of([&] { in_typed_words(run.typed, [&] { user_error("{}", message); }); });
  };
  EXPECT_EQ(later("model.seq_length=5 is short"),
            fmt::format("model.seq_length=5 is short {}", told));
  EXPECT_EQ(later("validation.eval_interval=7 and model.seq_length=5"),
            "validation.eval_interval=7 and model.seq_length=5 (dataset.seq_length is "
            "model.seq_length here, train.eval_interval is validation.eval_interval here)");
  EXPECT_EQ(later("model.seq_length_x and my.model.seq_length"),
            "model.seq_length_x and my.model.seq_length");
  EXPECT_EQ(later("dataset.seq_length: model.seq_length"), "dataset.seq_length: model.seq_length");
}

TEST(BridgeKeys, TagsAreAMappingThere) {
  const auto tags = [](const std::vector<Assignment>& line) {
    return settled({}, line).config.logger.mlflow_tags;
  };
  const Assignment on = {"logger.mlflow_experiment", "e"};
  using Tags = std::vector<std::string>;
  EXPECT_EQ(tags({on, {"logger.mlflow_tags", "{team: vision, stage: dev}"}}),
            (Tags{"team=vision", "stage=dev"}));
  EXPECT_EQ(tags({on, {"+logger.mlflow_tags.team", "vision"}, {"+logger.mlflow_tags.a/b", "c"}}),
            (Tags{"team=vision", "a/b=c"}));
  EXPECT_EQ(tags({on, {"logger.mlflow_tags", "[team=vision]"}}), (Tags{"team=vision"}));
  EXPECT_EQ(settled({{"logger.mlflow_tags.team", "vision"}}, {on}).config.logger.mlflow_tags,
            (Tags{"team=vision"}));
  EXPECT_REFUSED(settled({}, {on, {"logger.mlflow_tags.a", "b,c"}}), "a comma parts tags");
}

// The real Bridge's files, as they are.
TEST(BridgeKeys, ItsRunConfigIsTakenAsAFile) {
  const auto file = [](const std::string& name) {
    const std::string path = "fixtures/megatron/" + name + "/run_config.yaml";
    return flatten_yaml(load_yaml(read_text(path), path), path);
  };
  const SettledRun sft = settled(file("sft/iter_0000002"), {});
  EXPECT_EQ(sft.config.peft.scheme, "");
  EXPECT_EQ(sft.config.model.tensor_model_parallel_size, 2);
  EXPECT_EQ(sft.config.checkpoint.save, "sft");
  EXPECT_EQ(sft.config.validation.eval_interval, 0);  // null there
  EXPECT_TRUE(sft.asked.keys.empty());
  refuse_without_effect(sft);
  ASSERT_EQ(sft.notes.size(), 1);
  EXPECT_NE(sft.notes[0].find("keys of Megatron Bridge have no effect here"), std::string::npos);
  const SettledRun lora = settled(file("lora/iter_0000002"), {{"peft.dim", "9"}});
  EXPECT_EQ(lora.config.peft.scheme, "lora");
  EXPECT_EQ(lora.config.peft.dim, 9);
  EXPECT_EQ(settled(file("dora/iter_0000002"), {}).config.peft.scheme, "dora");
  EXPECT_REFUSED(
      settled({{"peft._target_", "megatron.bridge.peft.canonical_lora.CanonicalLoRA"}}, {}),
      "LoRA and DoRA are here");
}

TEST(BridgeKeys, FreezeFlagsBesideAdaptersAreItsPages) {
  const std::vector<Assignment> page = {{"peft.scheme", "lora"},
                                        {"model.freeze_vision_model", "true"}};
  const SettledRun run = settled({}, page);
  ASSERT_EQ(run.notes.size(), 1);
  EXPECT_EQ(run.notes[0],
            "model.freeze_vision_model=true changes nothing: adapters freeze the whole base");
  std::vector<Assignment> both = page;
  both.push_back({"peft.target_modules", "[linear_qkv,vision.q_proj]"});
  EXPECT_EQ(error_of([&] { settled({}, both); }),
            "model.freeze_vision_model=true, but peft.target_modules has vision.q_proj, which "
            "adapters train; leave one out");
}

}  // namespace
}  // namespace trestle
