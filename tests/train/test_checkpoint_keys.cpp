// Keys `checkpoint.` that say what of a run is saved, what of it is loaded, and which checkpoint:
// as Megatron Bridge means them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "base/file.h"
#include "bridge/check.h"
#include "bridge/convert.h"
#include "errors.h"
#include "megatron/integrity.h"
#include "model/ministral3.h"
#include "peft/lora.h"
#include "peft/merged.h"
#include "pytorch/torch_dist_writer.h"
#include "recipes/schedule.h"
#include "run/random_state.h"
#include "run/run_directory.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_mentions;

class CheckpointKeys : public testing::RunTest {
 protected:
  TrainConfig config_of(const std::string& name, const std::string& scheme = "lora") const {
    TrainConfig config = this->config(name, scheme);
    config.model.params_dtype = "float32";
    config.dataset.num_workers = 0;
    return config;
  }
  // Steps 2, 4 and 6, each saved.
  TrainConfig saved(const std::string& name, const std::string& scheme = "lora") const {
    TrainConfig config = config_of(name, scheme);
    config.checkpoint.save_interval = 2;
    run(config);
    return config;
  }
  TrainConfig from(TrainConfig config, const std::string& name) const {
    config.checkpoint.load = config.checkpoint.save;
    config.checkpoint.save = (directory_ / name).string();
    return config;
  }
  static std::optional<std::string> refusal(const TrainConfig& config) {
    return testing::refusal_of([&] { const Trainer trainer(config); });
  }
  static std::vector<int64_t> steps(const TrainConfig& config) {
    std::vector<int64_t> steps;
    for (const StepMetrics& each : run(config)) steps.push_back(each.step);
    return steps;
  }
  // By name, those that train.
  static std::map<std::string, at::Tensor> trained(Trainer& trainer) {
    std::map<std::string, at::Tensor> tensors;
    for (const auto& entry : trainer.model().named_parameters()) {
      if (entry.value().requires_grad()) tensors[entry.key()] = entry.value().detach().clone();
    }
    return tensors;
  }
  static void expect_equal(const std::map<std::string, at::Tensor>& ours,
                           const std::map<std::string, at::Tensor>& theirs) {
    ASSERT_EQ(ours.size(), theirs.size());
    for (const auto& [name, tensor] : ours) EXPECT_TRUE(at::equal(tensor, theirs.at(name))) << name;
  }
};

using Files = std::map<std::string, std::string>;

Files files_of(const fs::path& folder) {
  Files files;
  for (const auto& each : fs::directory_iterator(folder)) {
    files[each.path().filename().string()] = read_text(each.path());
  }
  return files;
}

TEST_F(CheckpointKeys, CkptStepIsTheStepGoneOnFrom) {
  const TrainConfig whole = saved("run");
  TrainConfig config = from(whole, "other");
  config.checkpoint.ckpt_step = 4;
  {
    const Trainer trainer(config);
    EXPECT_EQ(trainer.progress().step, 4);
    // As it was settled, which says the same once.
    EXPECT_EQ(trainer.config().checkpoint.load, whole.checkpoint.save + "/iter_0000004");
    EXPECT_EQ(trainer.config().checkpoint.ckpt_step, std::nullopt);
  }
  EXPECT_EQ(steps(config), (std::vector<int64_t>{5, 6}));
  config = from(whole, "third");
  config.checkpoint.ckpt_step = 3;
  expect_mentions(refusal(config), {"has no checkpoint of checkpoint.ckpt_step=3; it has 2, 4, 6"});
  config.checkpoint.load += "/iter_0000002";
  expect_mentions(refusal(config), {"is the checkpoint of step 2, but checkpoint.ckpt_step=3"});
  config.checkpoint.ckpt_step = 2;
  EXPECT_EQ(refusal(config), std::nullopt);
  config.checkpoint.load = "auto";
  expect_mentions(refusal(config), {"checkpoint.ckpt_step=2 and checkpoint.load=auto"});
  config.checkpoint.load.clear();
  expect_mentions(refusal(config), {"checkpoint.ckpt_step=2 has no effect without"});
}

// In the run's own directory nothing newer is lost in silence.
TEST_F(CheckpointKeys, CkptStepLosesNothingNewer) {
  TrainConfig config = saved("run");
  config.checkpoint.load = config.checkpoint.save;
  config.checkpoint.ckpt_step = 2;
  expect_mentions(refusal(config), {"holds steps up to 6", "name a new directory to save in"});
  config.checkpoint.ckpt_step = 6;
  EXPECT_EQ(refusal(config), std::nullopt);
}

TEST_F(CheckpointKeys, FinetuneTakesTheWeightsAlone) {
  for (const std::string scheme : {"", "lora"}) {
    SCOPED_TRACE(scheme);
    const TrainConfig first = saved("run" + scheme, scheme);
    TrainConfig config = from(first, "tuned" + scheme);
    config.checkpoint.finetune = true;
    config.optimizer.lr = 2e-3;
    config.rng.seed = 7;  // another run in whatever key
    Trainer trainer(config);
    EXPECT_EQ(trainer.progress().step, 0);
    EXPECT_EQ(trainer.progress().consumed_samples, 0);
    TrainConfig resumed = first;
    resumed.checkpoint.load = first.checkpoint.save;
    Trainer loaded(resumed);
    ASSERT_EQ(loaded.progress().step, 6);
    expect_equal(trained(trainer), trained(loaded));
    std::vector<int64_t> made;
    trainer.run([&](const StepMetrics& each) {
      made.push_back(each.step);
      EXPECT_EQ(each.lr, learning_rate(config, each.step));
    });
    EXPECT_EQ(made, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
    // A run like any other, which goes on without the key.
    expect_mentions(refusal(config), {"holds a run of 6 steps", "checkpoint.finetune=false"});
    config.checkpoint.load = config.checkpoint.save;
    expect_mentions(refusal(config), {"holds a run of 6 steps", "checkpoint.finetune=false"});
    config.checkpoint.finetune = false;
    EXPECT_EQ(refusal(config), std::nullopt);
  }
}

// Killed before its first save: the same command begins it again, whoever says otherwise is told
// what it was begun from, and the base is taken by nobody who did not ask for it.
TEST_F(CheckpointKeys, ARunThatReachedNoCheckpointBeginsAgainFromWhereItBegan) {
  const TrainConfig first = saved("run"), other = saved("other");
  for (const bool finetune : {true, false}) {
    SCOPED_TRACE(finetune);
    TrainConfig config = from(first, finetune ? "tuned" : "branch");
    config.checkpoint.finetune = finetune;
    if (!finetune) config.checkpoint.ckpt_step = 2;
    const auto killed = [&](int64_t behind) {
      Trainer trainer(config);
      trainer.run([&](const StepMetrics& each) {
        if (each.step >= behind) throw std::runtime_error("killed");
      });
    };
    EXPECT_THROW(killed(0), std::runtime_error);
    ASSERT_TRUE(iterations_of(config.checkpoint.save).empty());
    const std::string begun = fmt::format(
        "holds a run that reached no checkpoint; begin it again by checkpoint.load={}{}",
        first.checkpoint.save,
        finetune ? " checkpoint.finetune=true," : "/iter_0000002, or name another");
    for (const std::string& load : {std::string("auto"), std::string(), config.checkpoint.save}) {
      SCOPED_TRACE(load);
      TrainConfig otherwise = config;
      otherwise.checkpoint.load = load;
      otherwise.checkpoint.finetune = false;
      otherwise.checkpoint.ckpt_step.reset();
      expect_mentions(refusal(otherwise), {"checkpoint.save=" + config.checkpoint.save, begun});
    }
    TrainConfig another = config;
    another.checkpoint.load = other.checkpoint.save;
    expect_mentions(refusal(another), {begun});
    another = config;
    another.checkpoint.finetune = !finetune;
    expect_mentions(refusal(another), {begun});
    // As often as it takes.
    EXPECT_THROW(killed(0), std::runtime_error);
    TrainConfig undisturbed = config;
    undisturbed.checkpoint.save += "-undisturbed";
    EXPECT_EQ(losses(config), losses(undisturbed));
    // And then as any other run.
    config.checkpoint.load = "auto";
    config.checkpoint.finetune = false;
    config.checkpoint.ckpt_step.reset();
    EXPECT_EQ(refusal(config), std::nullopt);
  }
}

// The optimizer's masters are the loaded weights and not those of the base.
TEST_F(CheckpointKeys, FinetuneIsAsStartingFromTheExport) {
  const TrainConfig first = saved("run", "");
  TrainConfig tuned = from(first, "tuned");
  tuned.checkpoint.finetune = true;
  TrainConfig plain = config_of("plain", "");
  plain.checkpoint.save_interval = 2;
  plain.checkpoint.pretrained_checkpoint = (directory_ / "exported").string();
  export_checkpoint(first.checkpoint.save, {}, plain.checkpoint.pretrained_checkpoint);
  EXPECT_EQ(losses(tuned), losses(plain));
}

TEST_F(CheckpointKeys, FinetuneRefusesWhatItCannotMean) {
  const TrainConfig first = saved("run");
  TrainConfig config = from(first, "tuned");
  config.checkpoint.finetune = true;
  config.peft.alpha = 7;  // the same factors would be another adapter
  expect_mentions(refusal(config), {"peft.alpha=7 (there: 32)"});
  config.peft.alpha = first.peft.alpha;
  config.checkpoint.load = "auto";
  expect_mentions(refusal(config), {"checkpoint.finetune=true begins a run, and", "auto"});
  // Of the base alone that is what every run does.
  config.checkpoint.load.clear();
  EXPECT_EQ(refusal(config), std::nullopt);
}

TEST_F(CheckpointKeys, WithoutOptimizerARunDoesNotGoOnByItself) {
  TrainConfig config = config_of("run", "");
  config.checkpoint.save_optim = false;
  config.train.exit_interval = 3;
  run(config);
  const MegatronCheckpoint checkpoint(config.checkpoint.save);
  ASSERT_EQ(checkpoint.state().size(), 1u);
  EXPECT_EQ(checkpoint.state().begin()->first, kRandomState);
  EXPECT_FALSE(checkpoint.common_state().contains("optimizer"));
  EXPECT_FALSE(checkpoint.common_state().contains("opt_param_scheduler"));
  EXPECT_EQ(checkpoint.run_config()["checkpoint"]["save_optim"], false);
  // The model is whole for other readers.
  const OpenCheckpoint opened(config.checkpoint.save);
  EXPECT_FALSE(opened.weights().tensors().empty());

  config.train.exit_interval.reset();
  config.checkpoint.load = config.checkpoint.save;
  expect_mentions(refusal(config), {"was saved without its optimizer (checkpoint.save_optim=false)",
                                    "checkpoint.load_optim=false", "checkpoint.finetune=true"});
  config.checkpoint.load_optim = false;
  EXPECT_EQ(steps(config), (std::vector<int64_t>{4, 5, 6}));
}

// Before it began, the run took batches of another size.
TEST_F(CheckpointKeys, TheSchedulesSamplesAreThoseBehindItsStart) {
  const Asked asked{.keys = {}, .may_change = {"train.global_batch_size"}};
  const auto samples = [](const TrainConfig& run) -> Json {
    return MegatronCheckpoint(run.checkpoint.save)
        .common_state()["opt_param_scheduler"]["num_steps"];
  };
  TrainConfig config = from(saved("run"), "anew");
  config.checkpoint.ckpt_step = 2;  // 8 samples
  config.checkpoint.load_optim = false;
  config.train.global_batch_size = 2;
  config.train.exit_interval = 4;
  Trainer(config, asked).run();
  EXPECT_EQ(samples(config), 4);
  config.checkpoint.load = config.checkpoint.save;
  config.checkpoint.ckpt_step.reset();
  config.checkpoint.load_optim = true;
  config.train.global_batch_size = 8;
  config.train.exit_interval = 5;
  Trainer(config, asked).run();
  EXPECT_EQ(samples(config), 12);
  config.train.exit_interval.reset();
  EXPECT_EQ(steps(config), std::vector<int64_t>{6});
  EXPECT_EQ(samples(config), 20);
}

// As Megatron Bridge, which leaves the scheduler out with the optimizer: its steps count from 0,
// those of the run and the rows go on.
TEST_F(CheckpointKeys, WithoutLoadOptimOptimizerAndScheduleBeginAnew) {
  const TrainConfig whole = saved("run");
  TrainConfig config = from(whole, "anew");
  config.checkpoint.ckpt_step = 2;
  config.checkpoint.load_optim = false;
  config.train.exit_interval = 4;
  std::vector<StepMetrics> made = run(config);
  ASSERT_EQ(made.size(), 2u);
  EXPECT_EQ(made[0].step, 3);
  EXPECT_EQ(made[0].lr, learning_rate(config, 1));
  EXPECT_EQ(made[1].lr, learning_rate(config, 2));
  const MegatronCheckpoint checkpoint(config.checkpoint.save);
  EXPECT_EQ(checkpoint.iteration(), 4);
  EXPECT_EQ(checkpoint.common_state()["optimizer"]["optimizer"]["param_groups"][0]["step"], 2);
  EXPECT_EQ(checkpoint.common_state()["opt_param_scheduler"]["num_steps"], 8);
  EXPECT_EQ(checkpoint.train_state()["consumed_train_samples"], 16);
  // What goes on from there goes on with that schedule: to the bit, as in one piece.
  config.train.exit_interval.reset();
  TrainConfig rest = config;
  rest.checkpoint.ckpt_step.reset();
  rest.checkpoint.load_optim = true;
  rest.checkpoint.load = rest.checkpoint.save;
  for (const StepMetrics& each : run(rest)) made.push_back(each);
  TrainConfig at_once = config;
  at_once.checkpoint.save += "-at-once";
  const std::vector<StepMetrics> wanted = run(at_once);
  ASSERT_EQ(made.size(), wanted.size());
  for (size_t i = 0; i < made.size(); ++i) {
    EXPECT_EQ(made[i].loss, wanted[i].loss);
    EXPECT_EQ(made[i].lr, wanted[i].lr);
  }
  // And it is another training than with the optimizer.
  TrainConfig with = from(whole, "with");
  with.checkpoint.ckpt_step = 2;
  EXPECT_NE(run(with).back().loss, wanted.back().loss);
}

TEST_F(CheckpointKeys, RandomStateIsSavedAndLoadedOrNot) {
  TrainConfig config = config_of("run");
  config.peft.dropout = 0.5;
  config.train.exit_interval = 3;
  run(config);
  config.train.exit_interval.reset();
  TrainConfig exact = from(config, "exact"), anew = from(config, "anew"), none = config_of("none");
  const std::vector<double> wanted = losses(exact);
  anew.checkpoint.load_rng = false;
  const std::vector<double> from_seed = losses(anew);
  EXPECT_NE(from_seed, wanted);
  // The same as where it was not saved: a line tells of that, and nothing is refused.
  none.peft.dropout = 0.5;
  none.checkpoint.save_rng = false;
  none.train.exit_interval = 3;
  run(none);
  EXPECT_FALSE(MegatronCheckpoint(none.checkpoint.save).state().contains(kRandomState));
  none.train.exit_interval.reset();
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(losses(from(none, "none-on")), from_seed);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("has no random state"),
            std::string::npos);
}

// The export that lies in a checkpoint is that of `trestle export`, byte for byte.
TEST_F(CheckpointKeys, AlsoSaveHfIsTheExportOfTheCheckpoint) {
  TrainConfig config = config_of("run", "");
  config.checkpoint.also_save_hf_checkpoint = true;
  run(config);
  for (const char* iteration : {"iter_0000003", "iter_0000006"}) {
    const fs::path directory = fs::path(config.checkpoint.save) / iteration;
    const fs::path exported = directory_ / iteration;
    export_checkpoint(directory, {}, exported);
    const Files ours = files_of(directory / "hf"), theirs = files_of(exported);
    EXPECT_TRUE(ours.contains("model.safetensors"));
    EXPECT_TRUE(ours.contains("tekken.json") || ours.contains("tokenizer.json"));
    EXPECT_TRUE(ours == theirs);
    EXPECT_TRUE(check_model_directory(directory / "hf", CheckpointFormat::kHf).problems.empty());
  }
  // A run goes on from the checkpoint beside it, and says what the folder is good for.
  config.checkpoint.load = config.checkpoint.save;
  EXPECT_EQ(refusal(config), std::nullopt);
  config.checkpoint.load += "/iter_0000006/hf";
  expect_mentions(refusal(config), {"/hf is a Hugging Face folder", "pretrained_checkpoint"});
}

TEST_F(CheckpointKeys, AlsoSaveHfOfAdaptersIsAPeftFolder) {
  TrainConfig config = config_of("run");
  config.checkpoint.also_save_hf_checkpoint = true;
  run(config);
  const fs::path directory = fs::path(config.checkpoint.save) / "iter_0000006";
  // A path that is not relative can be found from anywhere.
  const std::string base = fs::absolute(config.checkpoint.pretrained_checkpoint).string();
  export_peft_folder({.megatron = directory}, base, directory_ / "exported", /*verify=*/true);
  const Files ours = files_of(directory / "hf");
  EXPECT_TRUE(ours == files_of(directory_ / "exported"));
  EXPECT_EQ(parse_json(ours.at("adapter_config.json"), "it")["base_model_name_or_path"], base);
  config.checkpoint.load = (directory / "hf").string();
  config.checkpoint.save += "-on";
  expect_mentions(refusal(config), {"/hf is a PEFT folder", "peft.adapter_path"});
}

TEST_F(CheckpointKeys, HfSourceSaysFilesAndBase) {
  const fs::path source = directory_ / "source";
  fs::copy("fixtures/hf", source, fs::copy_options::recursive);
  write_text(source / "chat_template.jinja", "another");
  TrainConfig config = config_of("run", "");
  config.checkpoint.also_save_hf_checkpoint = true;
  config.checkpoint.hf_source_path = source.string();
  run(config);
  const fs::path folder = fs::path(config.checkpoint.save) / "iter_0000006" / "hf";
  EXPECT_EQ(read_text(folder / "chat_template.jinja"), "another");
  TrainConfig lora = config_of("lora");
  lora.checkpoint.also_save_hf_checkpoint = true;
  lora.checkpoint.hf_source_path = source.string();
  run(lora);
  EXPECT_EQ(read_json(fs::path(lora.checkpoint.save) /
                      "iter_0000006/hf/adapter_config.json")["base_model_name_or_path"],
            source.string());
  // Another model is none to take a config from, and that is found before the first step.
  Json other = read_json(source / "config.json");
  other["text_config"]["rms_norm_eps"] = 0.25;
  write_json(source / "config.json", other);
  // Of adapters too, whose readers would look for it.
  for (TrainConfig* each : {&config, &lora}) {
    each->checkpoint.save += "-again";
    expect_mentions(refusal(*each),
                    {"checkpoint.hf_source_path=" + source.string(), "rms_norm_eps=0.25"});
    each->checkpoint.hf_source_path = (directory_ / "missing").string();
  }
  const auto missing = refusal(config);
  expect_mentions(missing, {"checkpoint.hf_source_path", "/missing"});
  EXPECT_EQ(refusal(lora), missing);
}

// A name of the Hub is looked for as everywhere, and stays what the adapter's readers are told.
TEST_F(CheckpointKeys, HfSourceMayBeANameOnTheHub) {
  setenv("HF_HUB_OFFLINE", "1", 1);
  const fs::path repository = directory_ / "cache" / "models--org--model";
  const std::string commit(40, '0');
  fs::create_directories(repository / "refs");
  write_text(repository / "refs" / "main", commit);
  fs::create_directories(repository / "snapshots");
  fs::copy("fixtures/hf", repository / "snapshots" / commit, fs::copy_options::recursive);
  setenv("HF_HUB_CACHE", (directory_ / "cache").c_str(), 1);
  TrainConfig config = config_of("run", "");
  config.train.exit_interval = 1;
  config.checkpoint.also_save_hf_checkpoint = true;
  config.checkpoint.hf_source_path = "org/none";
  expect_mentions(refusal(config), {"checkpoint.hf_source_path", "org/none", "HF_HUB_OFFLINE"});
  config.checkpoint.hf_source_path = "org/model";
  run(config);
  EXPECT_TRUE(fs::exists(fs::path(config.checkpoint.save) / "iter_0000001/hf/tokenizer.json"));
  // Of an adapter it is a name that nobody looks up here.
  TrainConfig lora = config_of("lora");
  lora.train.exit_interval = 1;
  lora.checkpoint.also_save_hf_checkpoint = true;
  lora.checkpoint.hf_source_path = "org/none";
  run(lora);
  unsetenv("HF_HUB_CACHE");
  unsetenv("HF_HUB_OFFLINE");
  EXPECT_EQ(read_json(fs::path(lora.checkpoint.save) /
                      "iter_0000001/hf/adapter_config.json")["base_model_name_or_path"],
            "org/none");
}

TEST_F(CheckpointKeys, VerifyIntegrityComparesBeforeItLoads) {
  TrainConfig config = saved("run");
  config.checkpoint.load = config.checkpoint.save;
  config.checkpoint.verify_integrity = true;
  EXPECT_EQ(refusal(config), std::nullopt);
  const fs::path iteration = fs::path(config.checkpoint.save) / "iter_0000006";
  // Nobody reads it of a run that goes on.
  const std::string text = read_text(iteration / "run_config.yaml");
  write_text(iteration / "run_config.yaml", text + "# changed\n");
  expect_mentions(refusal(config), {"run_config.yaml has SHA-256 "});
  config.checkpoint.verify_integrity = false;
  EXPECT_EQ(refusal(config), std::nullopt);
  config.checkpoint.verify_integrity = true;
  write_text(iteration / "run_config.yaml", text);
  fs::remove(iteration / kIntegrity);
  expect_mentions(refusal(config), {"has no integrity.json"});
  // The base too, where it is Megatron's.
  TrainConfig base = config_of("based");
  base.checkpoint.pretrained_checkpoint = (directory_ / "imported").string();
  base.checkpoint.verify_integrity = true;
  import_checkpoint("fixtures/hf", base.checkpoint.pretrained_checkpoint);
  EXPECT_EQ(refusal(base), std::nullopt);
  write_text(directory_ / "imported" / "iter_0000000" / "train_state.pt", "x");
  expect_mentions(refusal(base), {"train_state.pt has SHA-256 "});
}

// Nothing in Megatron's form is read: nothing is compared.
TEST_F(CheckpointKeys, VerifyIntegrityOfNothingIsRefused) {
  for (const std::string scheme : {"", "lora"}) {
    TrainConfig config = config_of("run" + scheme, scheme);
    config.checkpoint.verify_integrity = true;
    expect_mentions(refusal(config),
                    {"checkpoint.verify_integrity=true has no effect", "leave it out"});
    // A job that is queued again has something to compare the next time.
    config.checkpoint.load = "auto";
    config.train.exit_interval = 3;
    ::testing::internal::CaptureStderr();
    run(config);
    expect_mentions(::testing::internal::GetCapturedStderr(),
                    {"checkpoint.verify_integrity=true has no effect yet"});
    config.train.exit_interval.reset();
    ::testing::internal::CaptureStderr();
    run(config);
    EXPECT_EQ(::testing::internal::GetCapturedStderr().find("no effect"), std::string::npos);
  }
}

// A manifest that says less than there is.
TEST_F(CheckpointKeys, AManifestThatLeavesFilesOutIsRefused) {
  TrainConfig config = saved("run");
  config.checkpoint.load = config.checkpoint.save;
  config.checkpoint.verify_integrity = true;
  const fs::path iteration = fs::path(config.checkpoint.save) / "iter_0000006";
  const Json whole = read_json(iteration / kIntegrity);
  EXPECT_EQ(check_megatron(iteration).problems, std::vector<std::string>());
  const auto expect_problem = [&](const Json& manifest, const std::string& problem) {
    write_json(iteration / kIntegrity, manifest);
    expect_mentions(refusal(config), {problem});
    const CheckReport report = check_megatron(iteration);
    ASSERT_EQ(report.problems.size(), 1u);
    expect_mentions(report.problems[0], {problem});
  };
  Json none = whole;
  none["files"] = Json::object();
  expect_problem(none, "integrity.json lists no files");
  for (const char* name : {"__0_0.distcp", ".metadata", "metadata.json", "common.pt",
                           "run_config.yaml", "train_state.pt"}) {
    Json without = whole;
    ASSERT_EQ(without["files"].erase(name), 1u) << name;
    expect_problem(without,
                   fmt::format("integrity.json does not list {}/{}", iteration.string(), name));
  }
  // As Megatron Bridge's own is, which writes these two behind it.
  Json bridges = whole;
  for (const char* name : {"run_config.yaml", "train_state.pt"}) bridges["files"].erase(name);
  write_json(iteration / kIntegrity, bridges);
  EXPECT_EQ(refusal(config), std::nullopt);
  EXPECT_EQ(check_megatron(iteration).problems, std::vector<std::string>());
}

// One that was made without Transformer Engine's extra states, as other writers leave them out.
TEST_F(CheckpointKeys, NoExtraStateIsAsked) {
  TrainConfig config = config_of("run", "");
  config.train.exit_interval = 3;
  run(config);
  const fs::path iteration = fs::path(config.checkpoint.save) / "iter_0000003";
  {
    const MegatronCheckpoint checkpoint(iteration);
    const TorchDistReader& reader = checkpoint.reader();
    fs::create_directories(directory_ / "bare");
    TorchDistWriter writer(directory_ / "bare");
    for (const auto& [key, info] : reader.tensors()) {
      const at::Tensor tensor = reader.read(key).contiguous();
      writer.begin_chunk(key, info,
                         {std::vector<int64_t>(info.shape.size(), 0), info.shape, /*rank=*/0});
      writer.append(0, {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
    }
    size_t dropped = 0;
    for (const std::string& key : reader.objects()) {
      if (key.find("_extra_state") != std::string::npos) {
        ++dropped;
        continue;
      }
      SavedArchiveWriter archive;
      archive.pickle().json(reader.object(key).json());
      writer.write_object(key, std::move(archive));
    }
    EXPECT_GT(dropped, 4u);
    writer.commit();
  }
  for (const char* name : {".metadata", "__0_0.distcp"}) {
    fs::rename(directory_ / "bare" / name, iteration / name);
  }
  config.train.exit_interval.reset();
  const std::vector<double> bare = losses(from(config, "bare-on"));
  TrainConfig whole = config_of("whole", "");
  const std::vector<double> wanted = losses(whole);
  EXPECT_EQ(bare, std::vector<double>(wanted.begin() + 3, wanted.end()));
}

// As the Bridge documents it: the base in pretrained_checkpoint, a run of adapters or one of its
// iterations in load.
TEST_F(CheckpointKeys, AdaptersGoOnFromARunOrAnIteration) {
  const TrainConfig whole = saved("run");
  TrainConfig part = config_of("part");
  part.train.exit_interval = 4;
  part.checkpoint.save_interval = 2;
  run(part);
  part.train.exit_interval.reset();
  for (const char* inside : {"", "iter_0000004", "iter_0000002"}) {
    TrainConfig config = part;
    config.checkpoint.load = (fs::path(part.checkpoint.save) / inside).string();
    config.checkpoint.save += fmt::format("-on-{}", inside);
    Trainer trainer(config);
    EXPECT_EQ(trainer.progress().step, inside == std::string("iter_0000002") ? 2 : 4);
    trainer.run();
    TrainConfig last = whole;
    last.checkpoint.load = whole.checkpoint.save;
    Trainer wanted(last);
    expect_equal(trained(trainer), trained(wanted));
  }
}

}  // namespace
}  // namespace trestle
