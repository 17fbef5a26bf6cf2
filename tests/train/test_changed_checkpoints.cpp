// A checkpoint that somebody changed is not removed, whichever file it is: they made it theirs.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/save_record.h"
#include "errors.h"
#include "megatron/integrity.h"
#include "run/retention.h"
#include "run/run_directory.h"
#include "run/save_contents.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_mentions;

class ChangedCheckpoints : public testing::RunTest {
 protected:
  void SetUp() override {
    RunTest::SetUp();
    config_ = config("run");
    config_.model.params_dtype = "float32";
    config_.checkpoint.save_interval = 1;
    config_.checkpoint.also_save_hf_checkpoint = true;
    run(config_);
  }
  fs::path inside(int64_t step, const std::string& name) const {
    return iteration_directory(config_.checkpoint.save, step) / name;
  }
  // The lines of one removal of all but the last step's.
  std::vector<std::string> remove() const {
    const std::string lineage = save_record(inside(6, ""))->lineage;
    return remove_old_checkpoints({.run = config_.checkpoint.save, .step = 6, .lineage = lineage},
                                  {.newest = 1, .interval = std::nullopt});
  }
  std::vector<int64_t> left() const { return iterations_of(config_.checkpoint.save); }
  void edit_manifest(int64_t step, const std::function<void(Json&)>& edit) const {
    Json manifest = read_json(inside(step, kIntegrity));
    edit(manifest);
    write_json(inside(step, kIntegrity), manifest);
  }

  TrainConfig config_;
};

void append(const fs::path& file) { std::ofstream(file, std::ios::app) << "mine"; }

// Of the same size.
void change_last_byte(const fs::path& file) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(-1, std::ios::end);
  const int last = stream.get();
  stream.seekp(-1, std::ios::end);
  stream.put(static_cast<char>(last ^ 1));
}

TEST_F(ChangedCheckpoints, StayWhicheverFileItIs) {
  fs::resize_file(inside(1, "__0_0.distcp"), fs::file_size(inside(1, "__0_0.distcp")) + (2 << 20));
  append(inside(2, "tokenizer/tokenizer.json"));
  change_last_byte(inside(3, "tokenizer/tokenizer.json"));
  change_last_byte(inside(4, "hf/model.safetensors"));
  const std::vector<std::string> lines = remove();
  EXPECT_EQ(left(), (std::vector<int64_t>{1, 2, 3, 4, 6}));
  ASSERT_EQ(lines.size(), 4u);  // newest first
  expect_mentions(lines[0], {"iter_0000004 is kept: somebody changed ", "hf/model.safetensors"});
  expect_mentions(lines[1], {"iter_0000003 is kept: somebody changed ", "tokenizer/tokenizer."});
  expect_mentions(lines[2], {"iter_0000002 is kept: somebody changed ", "tokenizer/tokenizer."});
  expect_mentions(lines[3], {"iter_0000001 is kept: somebody changed ", "__0_0.distcp"});
}

// What the manifest says of them is Megatron's, and theirs is there as it was.
TEST_F(ChangedCheckpoints, EveryFileIsKnown) {
  const Json manifest = read_json(inside(6, kIntegrity));
  const Json& contents = manifest["trestle"]["contents"];
  size_t files = 0;
  for (const auto& each : fs::recursive_directory_iterator(inside(6, ""))) {
    if (!each.is_regular_file() || each.path().filename() == kIntegrity) continue;
    ++files;
    const std::string name = each.path().lexically_relative(inside(6, "")).string();
    EXPECT_TRUE(contents.contains(name)) << name;
  }
  EXPECT_EQ(contents.size(), files);
  EXPECT_TRUE(integrity_problems(inside(6, "")).empty());
}

// One of before 2026-12 does not say it: of large files and of folders nothing is known.
TEST_F(ChangedCheckpoints, OnesOfBeforeGoAsTheyWent) {
  for (int64_t step = 1; step <= 5; ++step) {
    edit_manifest(step, [](Json& manifest) { manifest.erase("trestle"); });
  }
  append(inside(1, "tokenizer/tokenizer.json"));
  EXPECT_TRUE(remove().empty());
  EXPECT_EQ(left(), (std::vector<int64_t>{6}));
}

// It is read beside the files that it names, and nowhere else.
TEST_F(ChangedCheckpoints, ADamagedManifestKeepsThem) {
  write_text(directory_ / "outside", "a");
  for (const char* name : {"../../outside", "/etc/hostname", "", "./common.pt"}) {
    edit_manifest(1, [&](Json& manifest) { manifest["trestle"]["contents"] = {{name, "aa"}}; });
    EXPECT_REFUSED(changed_content(inside(1, "")), "integrity.json: ", "is no name of a file");
  }
  edit_manifest(1, [](Json& manifest) { manifest["trestle"]["contents"] = {{"common.pt", 1}}; });
  EXPECT_REFUSED(changed_content(inside(1, "")), "common.pt is no name of a file");
  edit_manifest(1, [](Json& manifest) { manifest["trestle"] = 1; });
  const std::vector<std::string> lines = remove();
  EXPECT_EQ(left(), (std::vector<int64_t>{1, 6}));
  ASSERT_EQ(lines.size(), 1u);
  expect_mentions(lines[0], {"iter_0000001 is kept: ", "trestle has no object contents"});
}

}  // namespace
}  // namespace trestle
