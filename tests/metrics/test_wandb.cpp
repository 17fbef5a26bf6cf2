// Which W&B run a run directory goes on with. Framing and rows are in test_log.cpp, W&B's own
// reader in interop/test_trackers.py.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "errors.h"
#include "metrics/wandb.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Wandb : public testing::InDirectory<> {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    for (const char* name : {"WANDB_PROJECT", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR"}) {
      unsetenv(name);
    }
  }
};

TEST_F(Wandb, ACopiedRunDirectoryBeginsARunOfItsOwn) {
  const auto at = [&](const std::string& name) {
    TrainConfig asked;
    asked.checkpoint.save = (directory_ / name).string();
    asked.logger.wandb_project = "p";
    return asked;
  };
  const auto id = [&](const std::string& name) {
    const std::string text = read_text(directory_ / name / "wandb_run_id.txt");
    return text.substr(0, text.find('\n'));
  };
  const auto resumed = [](const TrainConfig& asked) {
    ::testing::internal::CaptureStderr();
    WandbRun::start(asked, 2);
    return ::testing::internal::GetCapturedStderr();
  };
  fs::create_directories(directory_ / "run");
  WandbRun::start(at("run"), 0);
  const std::string first = id("run");
  fs::copy(directory_ / "run", directory_ / "copy");
  EXPECT_EQ(resumed(at("copy")),
            fmt::format("W&B: run {} is that of {}, which checkpoint.save={} is a copy of; another "
                        "run begins\n",
                        first, (directory_ / "run").string(), (directory_ / "copy").string()));
  EXPECT_NE(id("copy"), first);
  const std::string second = id("copy");
  // From here on they are two.
  EXPECT_EQ(resumed(at("copy")), "");
  EXPECT_EQ(resumed(at("run")), "");
  EXPECT_EQ(id("copy"), second);
  EXPECT_EQ(id("run"), first);
  // One that was moved is the run itself, and its copies are known too.
  fs::rename(directory_ / "run", directory_ / "moved");
  EXPECT_EQ(resumed(at("moved")), "");
  EXPECT_EQ(id("moved"), first);
  fs::copy(directory_ / "moved", directory_ / "next");
  testing::expect_mentions(resumed(at("next")), {"is that of " + (directory_ / "moved").string()});
  // A file of before says no directory: it stays the run's, and a copy is known from then on.
  write_text(directory_ / "moved" / "wandb_run_id.txt", first);
  EXPECT_EQ(resumed(at("moved")), "");
  EXPECT_EQ(id("moved"), first);
  testing::expect_mentions(read_text(directory_ / "moved" / "wandb_run_id.txt"),
                           {"\n" + (directory_ / "moved").string() + "\n"});
  // What is asked for by name is taken.
  setenv("WANDB_RUN_ID", "chosen", 1);
  fs::copy(directory_ / "moved", directory_ / "last");
  EXPECT_EQ(resumed(at("last")), "");
  EXPECT_EQ(id("last"), "chosen");
}

}  // namespace
}  // namespace trestle
