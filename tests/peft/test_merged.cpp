// A model with its adapter merged, read in pieces.
#include <ATen/ATen.h>

#include <cstring>

#include "errors.h"
#include "formats/safetensors.h"
#include "model/ministral3.h"
#include "peft/merged.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Merged : public ::testing::TestWithParam<const char*> {};

TEST_P(Merged, RowsAreThoseOfTheModelThatMerges) {
  const fs::path adapter = fs::path("fixtures/megatron") / GetParam();
  const OpenModel open({.megatron = adapter});
  const OpenCheckpoint base("fixtures/megatron/import");
  const auto model = load_model(base, {base.dtype(), at::kCPU});
  // In bf16, as the fixture has it; OpenModel holds the same values in fp32. Both round once.
  load_adapter(*model, adapter);
  EXPECT_EQ(merge_adapters(*model), 12);  // three layers of four projections
  const ModelTensors wanted(*model, base.dtype());
  ASSERT_EQ(open.weights().tensors(), base.weights().tensors());
  int64_t changed = 0;
  for (const auto& [name, info] : wanted.tensors()) {
    const at::Tensor whole = wanted.read(name);
    changed += !at::equal(whole, read_all_rows(base.weights(), name));
    for (const int64_t step : {int64_t{1}, int64_t{7}, info.rows()}) {
      std::vector<std::byte> bytes(whole.nbytes());
      for (int64_t first = 0; first < info.rows(); first += step) {
        const int64_t count = std::min(step, info.rows() - first);
        open.weights().read_rows(name, {first, count},
                                 bytes.data() + static_cast<uint64_t>(first) * info.row_bytes());
      }
      EXPECT_EQ(std::memcmp(bytes.data(), whole.const_data_ptr(), whole.nbytes()), 0)
          << name << " in steps of " << step;
    }
  }
  EXPECT_EQ(changed, 12);
  EXPECT_FALSE(open.adapter_changes_nothing());
}

class FolderOfARun : public testing::InDirectory<::testing::TestWithParam<const char*>> {};

TEST_P(FolderOfARun, WhatWasWrittenIsTold) {
  const fs::path adapter = fs::path("fixtures/megatron") / GetParam();
  const AdapterWritten done =
      export_peft_folder({.megatron = adapter}, "some/base", directory_ / "folder", true);
  const SafetensorsFile file(directory_ / "folder" / "adapter_model.safetensors");
  uint64_t bytes = 0;
  for (const auto& [name, info] : file.tensors()) bytes += byte_size(info).value();
  EXPECT_EQ(done.written.tensors, std::ssize(file.tensors()));
  EXPECT_EQ(done.written.bytes, bytes);
  EXPECT_EQ(done.adapter, adapter);
  EXPECT_FALSE(done.summary.changes_nothing);
}

// The sizes stand in the run itself.
TEST_P(FolderOfARun, NeedsNoBase) {
  const fs::path run = directory_ / "elsewhere" / "run";
  fs::create_directories(run.parent_path());
  fs::copy(fs::path("fixtures/megatron") / GetParam(), run, fs::copy_options::recursive);
  EXPECT_REFUSED(OpenModel open({.megatron = run}), "belongs to the model import", "--hf-model");
  EXPECT_GT(export_peft_folder({.megatron = run}, "some/base", directory_ / "folder", true)
                .written.tensors,
            0);
}

INSTANTIATE_TEST_SUITE_P(Peft, FolderOfARun, ::testing::Values("lora", "dora"));
INSTANTIATE_TEST_SUITE_P(Peft, Merged, ::testing::Values("lora", "dora"));

}  // namespace
}  // namespace trestle
