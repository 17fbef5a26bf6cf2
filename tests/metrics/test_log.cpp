// The files a run tells by: TFRecord and W&B framing, TensorBoard's steps, report.html. Real
// readers are in interop/test_trackers.py.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>

#include "base/crc.h"
#include "base/file.h"
#include "base/protobuf.h"
#include "errors.h"
#include "metrics/log.h"
#include "metrics/run_report.h"
#include "metrics/wandb.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Metrics : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    for (const char* name : {"WANDB_PROJECT", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR"}) {
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
