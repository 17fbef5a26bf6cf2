// The files a run tells by: TFRecord and W&B framing, TensorBoard's steps, report.html. Real
// readers are in interop/test_trackers.py.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <regex>
#include <sstream>

#include "base/file.h"
#include "errors.h"
#include "metrics/crc.h"
#include "metrics/log.h"
#include "metrics/memory.h"
#include "metrics/mlflow.h"
#include "metrics/protobuf.h"
#include "metrics/run_report.h"
#include "metrics/wandb.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Metrics : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    for (const char* name :
         {"WANDB_PROJECT", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR", "MLFLOW_TRACKING_URI"}) {
      unsetenv(name);
    }
  }

  TrainConfig config() const {
    TrainConfig config;
    config.checkpoint.save = directory_.string();
    config.train.train_iters = 4;
    return config;
  }
  std::string report() const { return read_text(directory_ / "report.html"); }
};

uint64_t number(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

// The mask is that of leveldb's and TensorFlow's crc32c.h.
TEST_F(Metrics, TfRecordsAreFramed) {
  const std::string record = tf_record("123456789");
  ASSERT_EQ(record.size(), 8u + 4 + 9 + 4);
  EXPECT_EQ(number(record.substr(0, 8)), 9u);
  EXPECT_EQ(record.substr(12, 9), "123456789");
  const auto unmasked = [](uint64_t masked) {
    const auto rotated = static_cast<uint32_t>(masked) - 0xa282ead8u;
    return rotated >> 17 | rotated << 15;
  };
  EXPECT_EQ(unmasked(number(record.substr(8, 4))), crc32c(record.substr(0, 8)));
  EXPECT_EQ(unmasked(number(record.substr(21, 4))), 0xe3069283u);
}

// The lines of steps stay; of a last line without an end a kill is known.
TEST_F(Metrics, TellsOfLinesThatItLeavesOut) {
  const auto resume = [&](const std::string& lines) {
    write_text(directory_ / "metrics.jsonl", lines);
    ::testing::internal::CaptureStderr();
    { MetricsLog(config(), 2).finish(RunEnd::kFinished); }
    EXPECT_EQ(read_text(directory_ / "metrics.jsonl"), "{\"step\":1}\n{\"step\":2}\n");
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(resume("{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st"), "");
  testing::expect_mentions(resume("{\"step\":1}\ngarbage\n{\"step\":2}\n{\"step\":\"2\"}\n"),
                           {"metrics.jsonl: left out", "lines 2, 4\n"});
  testing::expect_mentions(resume("[]\n{\"step\":1}\n{\"step\":2}\n"), {"line 1\n"});
}

// Reads LevelDB's log format as its documentation says (doc/log_format.md).
std::vector<std::string> records_of(const std::string& file) {
  EXPECT_EQ(file.substr(0, 7), std::string(":W&B\xe1\xbe\0", 7));
  std::vector<std::string> out;
  std::string whole;
  bool open = false;  // a first part may be empty, where a block has room for its head only
  size_t at = 7;
  while (at < file.size()) {
    const size_t left = 32768 - at % 32768;
    if (left < 7) {
      EXPECT_EQ(file.substr(at, left), std::string(left, '\0'));
      at += left;
      continue;
    }
    const size_t size = number(file.substr(at + 4, 2));
    EXPECT_LE(7 + size, left);
    const char type = file.at(at + 6);
    EXPECT_EQ(number(file.substr(at, 4)), crc32(file.substr(at + 6, 1 + size)));
    EXPECT_EQ(type == 1 || type == 2, !open);
    open = type == 2 || type == 3;
    whole += file.substr(at + 7, size);
    if (!open) out.push_back(std::exchange(whole, ""));
    at += 7 + size;
  }
  EXPECT_FALSE(open);
  return out;
}

TEST_F(Metrics, WandbRecordsCrossBlocks) {
  std::mt19937 random(7);
  std::vector<std::string> written;
  // The second leaves 6 bytes of its block, too few for a head; the third exactly 7.
  for (const size_t size :
       {1000u, 32768u - 7 - 1007 - 7 - 6, 32768u - 7 - 7, 70'000u, 1u, 100'000u}) {
    std::string record;
    for (size_t i = 0; i < size; ++i) record += static_cast<char>(random());
    written.push_back(record);
  }
  WandbRecords records(directory_ / "run-a.wandb");
  for (const std::string& each : written) records.append(each);
  records.flush();
  EXPECT_EQ(records_of(read_text(directory_ / "run-a.wandb")), written);
}

TEST_F(Metrics, WandbIsOffUnlessAskedFor) {
  EXPECT_EQ(WandbRun::start(config(), 0), nullptr);
  TrainConfig asked = config();
  asked.logger.wandb_project = "p";
  // A key that is set to nothing turns it off, whatever the environment says.
  setenv("WANDB_PROJECT", "theirs", 1);
  TrainConfig off = config();
  off.logger.wandb_project = "";
  EXPECT_EQ(WandbRun::start(off, 0), nullptr);
  EXPECT_NE(WandbRun::start(config(), 0), nullptr);
  fs::remove_all(directory_ / "wandb");
  unsetenv("WANDB_PROJECT");
  setenv("WANDB_MODE", "disabled", 1);
  EXPECT_EQ(WandbRun::start(asked, 0), nullptr);
  setenv("WANDB_MODE", "sometimes", 1);
  EXPECT_REFUSED(WandbRun::start(asked, 0), "WANDB_MODE=sometimes");
  setenv("WANDB_MODE", "offline", 1);
  setenv("WANDB_RUN_ID", "../up", 1);
  EXPECT_REFUSED(WandbRun::start(asked, 0), "'../up' is no run id");
  EXPECT_FALSE(fs::exists(directory_ / "wandb"));
}

// The one file of a directory that has this extension.
std::string file_in(const fs::path& directory, std::string_view extension) {
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.find(extension) != std::string::npos) return read_text(entry.path());
  }
  return {};
}

// MLflow's, by its whole name.
std::string mlflow_file(const fs::path& directory, std::string_view name) {
  for (const auto& entry : fs::recursive_directory_iterator(directory / "mlruns")) {
    if (entry.path().filename() == name) return read_text(entry.path());
  }
  return {};
}

TEST_F(Metrics, AValidationIsOfItsStep) {
  TrainConfig asked = config();
  asked.logger.wandb_project = "p";
  MetricsLog log(asked, 0);
  log.write(StepMetrics{.step = 1, .loss = 2, .tokens = 1, .seconds = 1});
  log.write(ValidationMetrics{.step = 1, .loss = 1, .scores = {{"field_f1", 0.5}}, .answers = {}});
  log.write(StepMetrics{.step = 2, .loss = 2, .tokens = 1, .seconds = 1});
  log.finish(RunEnd::kFinished);
  const std::string events = file_in(directory_ / "tensorboard", "tfevents");
  for (const std::string name :
       {"lm loss validation", "lm loss validation ppl", "validation/field_f1"}) {
    EXPECT_NE(events.find(name), std::string::npos) << name;
  }
  int rows = 0, validations = 0;
  for (const std::string& record : records_of(file_in(directory_ / "wandb", ".wandb"))) {
    if (record.at(2) != 0x12) continue;  // behind num: history, field 2
    ++rows;
    validations += record.find("validation/field_f1") != std::string::npos;
  }
  EXPECT_EQ(rows, 2);  // W&B has one row a step
  EXPECT_EQ(validations, 1);
}

TEST_F(Metrics, ReportShowsCurvesScoresAndAnswers) {
  MetricsLog log(config(), 0);
  StepMetrics step{.step = 1,
                   .loss = 2.5,
                   .lr = 1e-3,
                   .grad_norm = 1,
                   .target_tokens = 5,
                   .tokens = 9,
                   .seconds = 0.5,
                   .peak_memory_bytes = 1'000'000};
  log.write(step);
  ScoredAnswer half, whole;
  half.prompt = "what is <this>?";
  half.pictures = 2;
  half.answer = "<b>said";
  half.wanted = "wanted & such";
  half.right = 1;
  half.total = 2;
  whole.row = whole.right = whole.total = 1;
  log.write(ValidationMetrics{.step = 1,
                              .loss = 2.25,
                              .scores = {{"field_f1", 0.5}},
                              .answers = {half, whole},
                              .seconds = 3661});
  EXPECT_NE(report().find("running"), std::string::npos);
  log.finish(RunEnd::kFinished);
  const std::string page = report();
  for (const std::string part :
       {"finished", "1 of 4", "1:01:01", "2.5000", "2.2500", "Validation: field_f1",
        "&lt;b&gt;said", "wanted &amp; such", "Row 0: 1 of 2 right", "Row 1: 1 of 1 right",
        "[2 pictures] what is &lt;this&gt;?", "train_iters: 4"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
}

TEST_F(Metrics, ARunThatIsNotFinishedFailed) {
  { const MetricsLog log(config(), 0); }
  EXPECT_NE(report().find("failed"), std::string::npos);
}

TEST_F(Metrics, TrackersAreToldOfEachNthStep) {
  TrainConfig asked = config();
  asked.logger.tensorboard_log_interval = 2;
  asked.logger.mlflow_experiment = "e";
  MetricsLog log(asked, 0);
  for (int64_t i = 1; i <= 4; ++i) {
    log.write(StepMetrics{.step = i, .loss = 1.5, .tokens = 1, .seconds = 1});
  }
  log.write(ValidationMetrics{.step = 3, .loss = 1});
  log.finish(RunEnd::kFinished);
  const std::string history = mlflow_file(directory_, "lm loss");
  EXPECT_EQ(std::ranges::count(history, '\n'), 2);
  EXPECT_TRUE(history.ends_with(" 1.5 4\n")) << history;
  EXPECT_EQ(std::ranges::count(read_text(directory_ / "metrics.jsonl"), '\n'), 5);
  // A validation is told of whatever its step.
  EXPECT_TRUE(mlflow_file(directory_, "lm loss validation").ends_with(" 1 3\n"));
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST_F(Metrics, ProgressIsMegatrons) {
  TrainConfig asked = config();
  asked.logger.log_progress = true;
  setenv("SLURM_JOB_ID", "77", 1);
  {
    MetricsLog log(asked, 0);
    for (int64_t i = 1; i <= 2; ++i) {
      log.write(
          StepMetrics{.step = i, .loss = 1, .tokens = 30'000'000, .seconds = 1, .flops = 1.25e15});
    }
    log.checkpoint_taken();
    // Made while it is written.
    log.write(
        StepMetrics{.step = 3, .loss = 1, .tokens = 1'000'000'000, .seconds = 1, .flops = 9e15});
    log.checkpoint_saved(2);
    log.finish(RunEnd::kStopped);
  }
  // As if the first session had begun 500 seconds ago; one step is made again.
  const std::time_t begun = std::time(nullptr) - 500;
  std::tm parts{};
  localtime_r(&begun, &parts);
  std::string before = read_text(directory_ / "progress.txt");
  std::strftime(before.data(), 20, "%Y-%m-%d %H:%M:%S", &parts);
  before[19] = '\t';  // where strftime ends its text
  write_text(directory_ / "progress.txt", before);
  MetricsLog log(asked, 1);
  log.checkpoint_taken();
  log.checkpoint_saved(1);
  unsetenv("SLURM_JOB_ID");
  const auto lines = lines_of(read_text(directory_ / "progress.txt"));
  ASSERT_EQ(lines.size(), 4u);
  const auto expect_line = [&](size_t i, const std::string& pattern) {
    const std::string head = "\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\tJob ID: 77\t# GPUs: 1\t";
    EXPECT_TRUE(std::regex_match(lines[i], std::regex(head + pattern))) << lines[i];
  };
  const std::string rate = "throughput: \\d+\\.\\d MODEL_TFLOP/s/GPU\t";
  const std::string saved = "Job " + rate + "Cumulative " + rate;
  expect_line(0, "Starting job");
  expect_line(1, "Saved checkpoint\tIteration: 2\t" + saved +
                     "Floating-point operations: 2\\.50e\\+15\tTokens \\(in billions\\): 0\\.06");
  expect_line(2, "Starting job");
  expect_line(3,
              "Saved checkpoint\tIteration: 1\tJob throughput: 0\\.0 MODEL_TFLOP/s/GPU\t"
              "Cumulative throughput: 2\\.[45] MODEL_TFLOP/s/GPU\t"
              "Floating-point operations: 1\\.25e\\+15\tTokens \\(in billions\\): 0\\.03");
}

TEST_F(Metrics, ThroughputIsToldWhereItIsAskedFor) {
  for (const bool is_asked : {false, true}) {
    TrainConfig asked = config();
    asked.checkpoint.save = (directory_ / (is_asked ? "on" : "off")).string();
    fs::create_directories(asked.checkpoint.save);
    asked.logger.mlflow_experiment = "e";
    asked.logger.log_throughput_to_tensorboard = is_asked;
    asked.train.global_batch_size = 6;
    MetricsLog log(asked, 0);
    log.write(
        StepMetrics{.step = 1, .ranks = 4, .loss = 1, .tokens = 8, .seconds = 4, .flops = 2e12});
    log.finish(RunEnd::kFinished);
    const auto ends = [&](const char* name, const std::string& end) {
      const std::string told = mlflow_file(asked.checkpoint.save, name);
      EXPECT_EQ(told.ends_with(end), is_asked) << name << ": " << told;
      EXPECT_EQ(told.empty(), !is_asked) << name << ": " << told;
    };
    ends("tflops", " 0.5 1\n");
    ends("tflops_per_device", " 0.125 1\n");
    ends("batches_per_sec", " 0.25 1\n");
    ends("samples_per_sec", " 1.5 1\n");
    EXPECT_TRUE(mlflow_file(asked.checkpoint.save, "tokens_per_sec").ends_with(" 2 1\n"));
  }
}

// In 1e9 bytes; the system's kB are 1024.
TEST(ProcessMemory, IsWhatTheSystemSays) {
  const auto most = [] {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) * 1024 / 1e9;
    }
    return 0.0;
  };
  const double before = most();
  if (before == 0) GTEST_SKIP() << "/proc/self/status has no VmHWM here";
  std::map<std::string, double> told;
  for (const auto& [name, value] : process_memory()) told[name] = value;
  EXPECT_GE(told.at("memory/mem-max-reserved-gigabytes"), before);
  EXPECT_LE(told.at("memory/mem-max-reserved-gigabytes"), most());
  EXPECT_LE(told.at("memory/mem-reserved-gigabytes"), most());
  EXPECT_GT(told.at("memory/mem-reserved-gigabytes"), 0);
}

// A child of this process, which was once large, begins small: what it is told is its own.
TEST(ProcessMemory, OfAChildIsNotThatOfWhoStartedIt) {
  constexpr int64_t kLarge = 256 << 20;
  { const std::vector<char> once(kLarge, 1); }
  ASSERT_GE(peak_resident_bytes(), kLarge);
  std::array<char, 64> line{};
  const std::string ask = fmt::format(
      "exec {} --gtest_filter=ProcessMemory.DISABLED_Tell "
      "--gtest_also_run_disabled_tests | grep ^peak",
      fs::read_symlink("/proc/self/exe").string());
  FILE* const child = ::popen(ask.c_str(), "r");
  ASSERT_NE(child, nullptr);
  const bool told = std::fgets(line.data(), line.size(), child) != nullptr;
  ::pclose(child);
  ASSERT_TRUE(told);
  EXPECT_LT(std::stoll(line.data() + 5), peak_resident_bytes() - kLarge / 2) << line.data();
}

TEST(ProcessMemory, DISABLED_Tell) { fmt::print("peak {}\n", peak_resident_bytes()); }

TEST_F(Metrics, MlflowTakesNamesAndFoldersThatAreSome) {
  for (const char* name : {"a", "a b", "a/b", "train.lr", "a:b"}) {
    EXPECT_EQ(mlflow_name_problem(name), std::nullopt) << name;
  }
  for (const char* name : {"", "/a", "../a", "a/../b", "./a", "a//b", "a/", "a=b", "a\nb", "."}) {
    EXPECT_NE(mlflow_name_problem(name), std::nullopt) << name;
  }
  EXPECT_NE(mlflow_name_problem(std::string(251, 'a')), std::nullopt);

  EXPECT_EQ(mlflow_folder("runs/here", "k"), "runs/here");
  EXPECT_EQ(mlflow_folder("/a b", "k"), "/a b");
  EXPECT_EQ(mlflow_folder("file:///a%20b/c%zz", "k"), "/a b/c%zz");
  EXPECT_EQ(mlflow_folder("file://localhost/a", "k"), "/a");
  EXPECT_EQ(mlflow_folder("file:a", "k"), "a");
  for (const char* uri : {"http://127.0.0.1:5000", "https://a", "sqlite:///mlflow.db", "databricks",
                          "databricks://x", "file://there/a", "file:"}) {
    EXPECT_REFUSED(mlflow_folder(uri, "the.key"), std::string("the.key=") + uri);
  }
}

TEST_F(Metrics, MlflowRefusesWhatItWouldNotTake) {
  const auto refused = [&](auto&& change) {
    TrainConfig asked = config();
    asked.logger.mlflow_experiment = "e";
    change(asked.logger);
    return testing::error_of([&] { MlflowRun::check(asked); });
  };
  using Options = LoggerOptions;
  const auto expect = [&](const std::string& said, const std::string& part) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  expect(refused([](Options& o) { o.mlflow_tags = {"team"}; }), "'team' is no name=value");
  expect(refused([](Options& o) { o.mlflow_tags = {"../a=b"}; }), "../a=b");
  expect(refused([](Options& o) { o.mlflow_tags = {"mlflow.user=me"}; }), "MLflow's own");
  expect(refused([](Options& o) { o.mlflow_tags = {"a=1", "a/b=2"}; }), "a and a/b cannot both be");
  expect(refused([](Options& o) { o.mlflow_tags = {"a=1", "a=2"}; }), "a and a cannot both be");
  expect(refused([](Options& o) { o.mlflow_experiment = std::string(501, 'a'); }), "501 bytes");
  expect(refused([](Options& o) { o.mlflow_tracking_uri = "http://a"; }), "http://a");
  setenv("MLFLOW_TRACKING_URI", "https://b", 1);
  expect(refused([](Options&) {}), "MLFLOW_TRACKING_URI=https://b");
  TrainConfig off = config();
  EXPECT_EQ(MlflowRun::start(off, 0), nullptr);
}

TEST_F(Metrics, MlflowGoesOnWithItsRun) {
  TrainConfig asked = config();
  asked.logger.mlflow_experiment = "e";
  asked.logger.mlflow_log_artifacts = false;
  const auto metric = [&] { return mlflow_file(directory_, "lm loss"); };
  {
    const auto run = MlflowRun::start(asked, 0);
    for (int64_t i = 1; i <= 3; ++i) run->write(i, {{"lm loss", static_cast<double>(i)}});
    run->write(3, {{"lm loss validation", 3}});
  }
  const std::string id = read_text(directory_ / "mlflow_run_id.txt");
  EXPECT_NE(mlflow_file(directory_, "mlflow.runName"), "");
  // As a kill may leave it.
  for (const auto& entry : fs::recursive_directory_iterator(directory_ / "mlruns")) {
    if (entry.path().filename() == "lm loss") {
      std::ofstream(entry.path(), std::ios::app) << "1796012235 3.1";
    }
  }
  fs::path meta;
  for (const auto& entry : fs::recursive_directory_iterator(directory_ / "mlruns")) {
    const bool of_run = entry.path().parent_path().filename() == id.substr(0, id.size() - 1);
    if (of_run && entry.path().filename() == "meta.yaml") meta = entry.path();
  }
  const std::string start = "start_time: 1234567890123";
  write_text(meta, std::regex_replace(read_text(meta), std::regex("start_time: \\d+"), start));
  TrainConfig changed = asked;
  changed.train.train_iters = 9;
  {
    const auto run = MlflowRun::start(changed, 2);
    // MLflow refuses the whole experiment for a metric without a value.
    for (const auto& entry : fs::recursive_directory_iterator(directory_ / "mlruns")) {
      EXPECT_NE(entry.path().filename(), "lm loss validation");
    }
    run->write(3, {{"lm loss", 7}});
    run->finish(MlflowMeta::kKilled);
  }
  EXPECT_EQ(read_text(directory_ / "mlflow_run_id.txt"), id);
  EXPECT_NE(read_text(meta).find(start), std::string::npos) << read_text(meta);
  const auto lines = lines_of(metric());
  ASSERT_EQ(lines.size(), 3u) << metric();
  EXPECT_TRUE(lines[1].ends_with(" 2 2"));
  EXPECT_TRUE(lines[2].ends_with(" 7 3"));
  // To MLflow a parameter has one value for ever.
  EXPECT_EQ(mlflow_file(directory_, "train.train_iters"), "4");
  // Without its folder a run of its own begins.
  fs::remove_all(directory_ / "mlruns");
  EXPECT_NE(MlflowRun::start(asked, 2), nullptr);
  EXPECT_NE(read_text(directory_ / "mlflow_run_id.txt"), id);
  write_text(directory_ / "mlflow_run_id.txt", "../../up");
  EXPECT_REFUSED(MlflowRun::start(asked, 2), "'../../up' is no MLflow run id");
}

TEST_F(Metrics, MlflowsCheckpointsAreLinks) {
  TrainConfig asked = config();
  asked.logger.mlflow_experiment = "e";
  fs::create_directories(directory_ / "iter_0000002" / "tokenizer");
  write_text(directory_ / "iter_0000002" / "common.pt", "a");
  write_text(directory_ / "iter_0000002" / "tokenizer" / "t.json", "b");
  const auto run = MlflowRun::start(asked, 0);
  run->add_checkpoint(2);
  run->add_checkpoint(2);  // a step made again
  int64_t links = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory_ / "mlruns")) {
    links += entry.is_regular_file() && entry.hard_link_count() == 2;
  }
  EXPECT_EQ(links, 2);
  EXPECT_EQ(mlflow_file(directory_, "t.json"), "b");
}

TEST_F(Metrics, AnExperimentThatWasDeletedIsNotWrittenTo) {
  const fs::path store = directory_ / "store";
  const fs::path made = mlflow_experiment(store, "e");
  EXPECT_EQ(mlflow_experiment(store, "e"), made);
  EXPECT_NE(mlflow_experiment(store, "another"), made);
  EXPECT_TRUE(fs::exists(store / "0" / "meta.yaml"));
  fs::create_directories(store / "123");
  write_text(store / "123" / "meta.yaml", "name: [");  // passed over, as MLflow does
  fs::create_directories(store / ".trash");
  fs::rename(made, store / ".trash" / made.filename());
  EXPECT_REFUSED(mlflow_experiment(store, "e"), "logger.mlflow_experiment=e");
}

TEST_F(Metrics, AResumedReportHasTheStepsBefore) {
  {
    MetricsLog log(config(), 0);
    for (int64_t i = 1; i <= 3; ++i) {
      log.write(StepMetrics{.step = i, .loss = 1, .tokens = 1, .seconds = 60});
    }
    log.finish(RunEnd::kStopped);
  }
  EXPECT_NE(report().find("stopped"), std::string::npos);
  MetricsLog log(config(), 2);
  log.write(StepMetrics{.step = 3, .loss = 1, .tokens = 1, .seconds = 60});
  log.finish(RunEnd::kStopped);
  EXPECT_NE(report().find("3 of 4"), std::string::npos);
  EXPECT_NE(report().find("0:03:00"), std::string::npos);
}

}  // namespace
}  // namespace trestle
