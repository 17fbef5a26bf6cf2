// What a run goes on from, and what it must not be: another run's checkpoint, another run's
// directory.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/file.h"
#include "bridge/check.h"
#include "errors.h"
#include "megatron/checkpoint.h"
#include "megatron/integrity.h"
#include "peft/lora.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;

class Resume : public testing::RunTest {
 protected:
  TrainConfig lora(const std::string& name) const {
    TrainConfig config = this->config(name, "lora");
    config.dataset.num_workers = 0;
    return config;
  }
  // Three of six steps, and the config to go on with.
  TrainConfig begun(TrainConfig config) const {
    config.train.exit_interval = 3;
    Trainer(config).run();
    config.train.exit_interval.reset();
    config.checkpoint.load = config.checkpoint.save;
    return config;
  }
  static std::optional<std::string> refusal(const TrainConfig& config,
                                            const std::set<std::string>& may = {}) {
    return testing::refusal_of(
        [&] { const Trainer trainer(config, {.keys = {}, .may_change = may}); });
  }
};

TEST_F(Resume, AnotherRunIsRefusedAndLeavesAllAsItWas) {
  const TrainConfig saved = begun(lora("run"));
  const auto files = [&] {
    std::map<std::string, std::string> out;
    for (const auto& each : fs::recursive_directory_iterator(saved.checkpoint.save)) {
      if (each.is_regular_file()) out[each.path().string()] = read_text(each.path());
    }
    return out;
  };
  const auto before = files();
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"peft.alpha", "1"},
                                          {"peft.use_rslora", "true"},
                                          {"peft.target_modules", "[linear_qkv]"},
                                          {"peft.lora_A_init_method", "kaiming"},
                                          {"peft.scheme", "dora"},
                                          {"rng.seed", "5"},
                                          {"model.seq_length", "99"}}) {
    TrainConfig other = saved;
    apply_override(other, key + "=" + value);
    expect_mentions(refusal(other), {key + "="});
  }
  EXPECT_EQ(files(), before);
  TrainConfig allowed = saved;
  allowed.rng.seed = 5;
  EXPECT_EQ(refusal(allowed, {"rng.seed"}), std::nullopt);
  // A permission for one key is none for another.
  allowed.peft.alpha = 1;
  expect_mentions(refusal(allowed, {"rng.seed"}), {"peft.alpha=1 (there: 32)"});
  EXPECT_EQ(refusal(saved), std::nullopt);
}

// Even where the key is let be: no tensor is dropped, and none begins anew.
TEST_F(Resume, TensorsThatAreNotThereAreRefused) {
  TrainConfig more = lora("run");
  more.peft.target_modules = {"linear_qkv"};
  more = begun(more);
  more.peft.target_modules = {"linear_qkv", "linear_fc1"};
  expect_mentions(refusal(more, {"peft.target_modules"}),
                  {"checkpoint.load=" + more.checkpoint.load + " has no ", "linear_fc1",
                   "; was it made with other adapters or frozen parts?"});
}

// Nor is one left over.
TEST_F(Resume, TensorsThatNobodyTakesAreRefused) {
  TrainConfig fewer = begun(lora("run"));
  fewer.peft.target_modules = {"linear_qkv"};
  expect_mentions(refusal(fewer, {"peft.target_modules"}), {"no place for"});
  TrainConfig dora = this->lora("dora");
  dora.peft.scheme = "dora";
  dora = begun(dora);
  dora.peft.scheme = "lora";
  expect_mentions(refusal(dora, {"peft.scheme"}), {"no place for"});
  TrainConfig pissa = this->lora("pissa");
  pissa.peft.lora_A_init_method = "pissa";
  pissa = begun(pissa);
  pissa.peft.lora_A_init_method = "xavier";
  expect_mentions(refusal(pissa, {"peft.lora_A_init_method"}), {"no place for"});
}

TEST_F(Resume, BaseAndDataAreKnownByTheirContent) {
  const fs::path base = directory_ / "base", moved = directory_ / "moved";
  fs::copy("fixtures/hf", base, fs::copy_options::recursive);
  TrainConfig config = lora("run");
  config.checkpoint.pretrained_checkpoint = base.string();
  const TrainConfig saved = begun(config);
  fs::rename(base, moved);
  fs::copy_file(directory_ / "data.jsonl", moved / "data.jsonl");
  TrainConfig same = saved;
  same.checkpoint.pretrained_checkpoint = moved.string();
  same.dataset.path_or_dataset = (moved / "data.jsonl").string();
  EXPECT_EQ(refusal(same), std::nullopt);

  fs::copy_file(moved / "data.jsonl", moved / "other name.jsonl");
  same.dataset.path_or_dataset = (moved / "other name.jsonl").string();
  EXPECT_EQ(refusal(same), std::nullopt);
  same.dataset.path_or_dataset = (moved / "data.jsonl").string();

  std::string data = read_text(moved / "data.jsonl");
  data[data.find("count 3") + 6] = '9';
  write_text(moved / "data.jsonl", data);
  expect_mentions(refusal(same), {"dataset.path_or_dataset="});
  EXPECT_EQ(refusal(same, {"dataset.path_or_dataset"}), std::nullopt);

  same = saved;
  same.checkpoint.pretrained_checkpoint = moved.string();
  // One bit of the last weight of the file.
  std::string weights = read_text(moved / "model.safetensors");
  weights.back() = static_cast<char>(weights.back() ^ 1);
  write_text(moved / "model.safetensors", weights);
  expect_mentions(refusal(same), {"checkpoint.pretrained_checkpoint="});
  EXPECT_EQ(refusal(same, {"checkpoint.pretrained_checkpoint"}), std::nullopt);
}

TEST_F(Resume, AnAdapterSaysWhatTheConfigThenSays) {
  TrainConfig config = this->config("run");
  config.peft.scheme = "dora";
  config.peft.adapter_path = "fixtures/megatron/dora";
  const TrainConfig saved = begun(config);
  const Trainer trainer(saved);
  const LoraConfig held = lora_config_of(const_cast<Trainer&>(trainer).model());
  EXPECT_EQ(trainer.config().peft.dim, held.dim);
  EXPECT_NE(held.dim, LoraConfig{}.dim);
  EXPECT_EQ(trainer.config().peft.target_modules, held.target_modules);
  TrainConfig asked = saved;
  asked.peft.dim = held.dim + 1;
  EXPECT_REFUSED(const Trainer other(asked, {.keys = {"peft.dim"}, .may_change = {}}),
                 fmt::format("has peft.dim={} but {} was asked for", held.dim, held.dim + 1));
  asked = saved;
  asked.peft.adapter_path.clear();
  expect_mentions(refusal(asked), {"peft.adapter_path is not given (there: "});
}

// A byte that the disk has changed since, anywhere that `inspect --check` sees it.
TEST_F(Resume, DamagedDataAreRefused) {
  const TrainConfig saved = begun(lora("run"));
  const fs::path iteration = fs::path(saved.checkpoint.save) / "iter_0000003";
  fs::remove(iteration / kIntegrity);  // which would find all of them
  std::map<std::string, int64_t> found;
  for (const auto& each : fs::directory_iterator(iteration)) {
    const fs::path& file = each.path();
    if (file.extension() != ".distcp" && file.extension() != ".pt") continue;
    const std::string whole = read_text(file);
    constexpr size_t kPlaces = 24;
    for (size_t i = 0; i < kPlaces; ++i) {
      std::string damaged = whole;
      damaged[i * (whole.size() - 1) / (kPlaces - 1)] ^= 4;
      write_text(file, damaged);
      // Some bytes (dates, local headers) nobody reads.
      if (check_megatron(iteration).problems.empty()) continue;
      SCOPED_TRACE(fmt::format("{} at {} of {}", file.string(), i, kPlaces));
      expect_mentions(refusal(saved), {iteration.string()});
      ++found[file.extension().string()];
    }
    write_text(file, whole);
  }
  EXPECT_EQ(refusal(saved), std::nullopt);
  EXPECT_GT(found[".distcp"], 10);
  EXPECT_GT(found[".pt"], 10);
}

// The last value of an adapter: nothing but the sum of its record tells that it is another.
TEST_F(Resume, AnotherBitOfAnAdapterIsRefused) {
  const TrainConfig saved = begun(lora("run"));
  const MegatronCheckpoint checkpoint(saved.checkpoint.save);
  const std::string name = checkpoint.tensors().begin()->first;
  // On disk layers are one stack, and the line names that.
  const std::string last_part = name.substr(name.find(".mlp.linear_fc1.adapter."));
  const at::Tensor values = checkpoint.read(name).contiguous();
  const std::string_view bytes(static_cast<const char*>(values.const_data_ptr()), values.nbytes());
  for (const auto& each : fs::directory_iterator(checkpoint.directory())) {
    if (each.path().extension() != ".distcp") continue;
    std::string text = read_text(each.path());
    const size_t at = text.find(bytes);
    if (at == std::string::npos) continue;
    text[at + bytes.size() - 1] ^= 1;
    write_text(each.path(), text);
    expect_mentions(refusal(saved), {each.path().string(), last_part, "has the sum", "damaged"});
    return;
  }
  FAIL() << name << " is in no file as it is in memory";
}

// Of an adapter without dropout, in order: any seed draws the same.
TEST_F(Resume, ASeedThatNothingIsDrawnFromIsNoOther) {
  TrainConfig config = this->config("run");
  config.peft.scheme = "dora";
  config.peft.adapter_path = "fixtures/megatron/dora";
  config.dataset.shuffle = false;
  TrainConfig saved = begun(config);
  saved.rng.seed = 5;
  EXPECT_EQ(refusal(saved), std::nullopt);
  EXPECT_EQ(losses(saved).size(), 3u);
  expect_mentions(error_of([&] {
                    TrainConfig again = config;
                    again.checkpoint.save += "-again";
                    const Trainer trainer(again, {.keys = {"rng.seed"}, .may_change = {}});
                  }),
                  {"rng.seed=1234 has no effect: ", "nothing is drawn"});
  config.checkpoint.save += "-shuffled";
  config.dataset.shuffle = true;
  saved = begun(config);
  saved.rng.seed = 5;
  expect_mentions(refusal(saved), {"rng.seed=5 (there: 1234)"});
}

TEST_F(Resume, ARunIsNotWrittenOver) {
  const TrainConfig first = lora("run");
  const TrainConfig saved = begun(first);
  expect_mentions(refusal(first), {"holds a run of 3 steps; go on with it by checkpoint.load="});
  TrainConfig into = begun(lora("other"));
  into.checkpoint.save = saved.checkpoint.save;
  expect_mentions(refusal(into), {"holds another run"});
  TrainConfig back = saved;
  back.checkpoint.load = saved.checkpoint.save + "/iter_0000003";
  EXPECT_EQ(refusal(back), std::nullopt);
  Trainer(saved).run();
  expect_mentions(refusal(back), {"holds steps up to 6"});
  back.checkpoint.save += "-new";
  EXPECT_EQ(refusal(back), std::nullopt);
}

TEST_F(Resume, CheckpointsThatAreThereCountForThoseThatGo) {
  TrainConfig config = lora("run");
  config.checkpoint.save_interval = 1;
  config.checkpoint.most_recent_k = 3;
  config = begun(config);
  const auto said = [](const TrainConfig& of) {
    ::testing::internal::CaptureStderr();
    { const Trainer trainer(of, {.keys = {"checkpoint.most_recent_k"}, .may_change = {}}); }
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(said(config).find("most_recent_k"), std::string::npos);
  config.checkpoint.save += "-new";
  expect_mentions(said(config), {"no checkpoint goes: the run saves 3 behind step 3, by"});
}

// A job that is started twice: the second waits for its model while the first one trains.
TEST_F(Resume, ARunThatCameBetweenIsNotWrittenOver) {
  const TrainConfig config = lora("run");
  Trainer early(config), late(config);
  early.run();
  const std::string metrics = read_text(config.checkpoint.save + "/metrics.jsonl");
  EXPECT_REFUSED(late.run(), "checkpoint.save=" + config.checkpoint.save,
                 "written to by another run", "auto");
  EXPECT_EQ(read_text(config.checkpoint.save + "/metrics.jsonl"), metrics);
}

TEST_F(Resume, AutoGoesOnOrBegins) {
  TrainConfig automatic = lora("run");
  automatic.checkpoint.load = "auto";
  const std::vector<double> whole = losses(automatic);
  EXPECT_EQ(whole.size(), 6u);
  EXPECT_EQ(losses(automatic).size(), 0u);  // all is done
  automatic.checkpoint.save += "-again";
  // Steps without a checkpoint are made again.
  fs::create_directories(automatic.checkpoint.save);
  write_text(automatic.checkpoint.save + "/resolved_config.yaml", kResolvedConfigMark);
  write_text(automatic.checkpoint.save + "/metrics.jsonl", "{\"step\": 1}\n");
  automatic.train.exit_interval = 3;
  std::vector<double> parts = losses(automatic);
  automatic.train.exit_interval.reset();
  for (const double loss : losses(automatic)) parts.push_back(loss);
  EXPECT_EQ(parts, whole);
  // What the tracker names is gone: something is lost, and not nothing to go on from.
  const fs::path last = automatic.checkpoint.save + "/iter_0000006";
  fs::rename(last, directory_ / "elsewhere");
  EXPECT_EQ(refusal(automatic), last.string() + " is named as the latest checkpoint of " +
                                    automatic.checkpoint.save + " and does not exist");
}

TEST_F(Resume, SavingOverTheBaseIsRefused) {
  const fs::path base = directory_ / "base";
  fs::copy("fixtures/hf", base, fs::copy_options::recursive);
  fs::create_directory_symlink(base, directory_ / "link");
  for (const std::string load : {"", "auto"}) {
    for (const fs::path& save :
         {base, base / "", directory_ / "link", directory_, base / ".." / "base"}) {
      TrainConfig config = lora("run");
      config.checkpoint.pretrained_checkpoint = base.string();
      config.checkpoint.save = save.string();
      config.checkpoint.load = load;
      SCOPED_TRACE(save);
      expect_mentions(refusal(config), {"is where checkpoint.pretrained_checkpoint="});
    }
  }
  TrainConfig beside = lora("run");
  beside.checkpoint.pretrained_checkpoint = base.string();
  beside.checkpoint.save = base.string() + "-run";
  EXPECT_EQ(refusal(beside), std::nullopt);
}

}  // namespace
}  // namespace trestle
