// Conversions in blocks of rows: the bytes do not depend on the blocks, nor on the ranks whose
// chunks a Megatron checkpoint is written in.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "bridge/convert.h"
#include "formats/safetensors.h"
#include "hf_testing.h"
#include "megatron/checkpoint.h"
#include "model/ministral3.h"
#include "pytorch/torch_dist.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_equal;
using testing::expect_mentions;

using Stream = testing::InDirectory<>;

// A model that eight ranks divide: the real config of a fixture with other sizes.
fs::path wide_model(const fs::path& directory) {
  Json json = read_json("fixtures/hf/config.json");
  Json& text = json["text_config"];
  text["num_hidden_layers"] = 4;
  text["num_attention_heads"] = 16;
  text["num_key_value_heads"] = 8;
  text["head_dim"] = 8;
  text["intermediate_size"] = 96;
  text["vocab_size"] = 320;
  const ModelConfig config = parse_hf_config(json, "test");
  Ministral3 model(config, {at::kBFloat16, at::kCPU});
  model.initialize(7);
  write_hf(ModelTensors(model, at::kBFloat16), config, json, {}, directory / "wide");
  return directory / "wide";
}

TEST(FusedRows, RunsAreWhatFuseDoes) {
  for (const FusedLayout& layout :
       {FusedLayout::plain(), FusedLayout::qkv(3, 2, 5), FusedLayout::gate_up()}) {
    const int64_t total = 60;
    const at::Tensor fused = at::arange(total);
    const auto parts =
        layout.parts().empty() ? std::vector<at::Tensor>{fused} : layout.split(fused, 0);
    for (int64_t first = 0; first < total; ++first) {
      for (int64_t count = 1; first + count <= total; ++count) {
        std::vector<at::Tensor> pieces;
        int64_t next = first;
        for (const auto& run : layout.runs(first, count, total)) {
          EXPECT_EQ(run.fused_row, next);
          next += run.rows;
          pieces.push_back(parts[run.part].narrow(0, run.part_row, run.rows));
        }
        ASSERT_TRUE(at::equal(at::cat(pieces), fused.narrow(0, first, count)));
      }
    }
    for (size_t part = 0; part < parts.size(); ++part) {
      const int64_t rows = parts[part].size(0);
      for (int64_t first = 0; first < rows; ++first) {
        for (int64_t count = 1; first + count <= rows; ++count) {
          std::vector<at::Tensor> pieces;
          for (const auto& run : layout.runs_of_part(part, first, count, total)) {
            pieces.push_back(fused.narrow(0, run.fused_row, run.rows));
          }
          ASSERT_TRUE(at::equal(at::cat(pieces), parts[part].narrow(0, first, count)));
        }
      }
    }
  }
}

TEST_F(Stream, RowsOfEverySourceAreThoseOfTheWholeTensor) {
  const HfCheckpoint hf("fixtures/hf");
  const HfAsMegatron fused(hf, hf.config());
  const MegatronCheckpoint tp2("fixtures/megatron/tp2"), sft("fixtures/megatron/sft");
  const MegatronAsHf split(tp2, hf.config());
  for (const TensorSource* source :
       std::initializer_list<const TensorSource*>{&hf, &fused, &tp2, &sft, &split}) {
    for (const auto& [name, info] : source->tensors()) {
      const at::Tensor whole = source->read(name).contiguous();
      for (const int64_t step : {int64_t{1}, int64_t{7}, info.rows()}) {
        at::Tensor copy = at::empty_like(whole);
        auto* out = static_cast<std::byte*>(copy.mutable_data_ptr());
        for (int64_t first = 0; first < info.rows(); first += step) {
          const int64_t count = std::min(step, info.rows() - first);
          source->read_rows(name, {first, count}, out);
          out += info.row_bytes() * static_cast<uint64_t>(count);
        }
        ASSERT_TRUE(at::equal(copy, whole)) << name << " in steps of " << step;
      }
    }
  }
}

// users' pain point 2: memory of conversion.
TEST_F(Stream, SmallBlocksGiveTheSameBytes) {
  const HfCheckpoint source("fixtures/hf");
  TensorList list(source.tensors().begin(), source.tensors().end());
  for (const uint64_t block : {uint64_t{1}, uint64_t{1000}, uint64_t{1} << 30}) {
    const fs::path path = directory_ / fmt::format("block-{}.safetensors", block);
    SafetensorsWriter writer(path, list);
    stream_rows(source, list, block, [&](const std::string& name, std::span<const std::byte> rows) {
      writer.write_rows(name, rows);
    });
    writer.commit();
    expect_equal(SafetensorsFile(path), source);
  }
}

TEST_F(Stream, EveryNumberOfRanksHoldsTheSameModel) {
  const fs::path wide = wide_model(directory_);
  const HfCheckpoint source(wide);
  import_checkpoint(wide, directory_ / "one");
  const MegatronCheckpoint one(directory_ / "one");
  for (const int64_t tp : {1, 2, 4, 8}) {
    for (const int64_t pp : {1, 2}) {
      const fs::path run = directory_ / fmt::format("tp{}-pp{}", tp, pp);
      import_checkpoint(wide, run, {.tensor_parallel = tp, .pipeline_parallel = pp});
      const MegatronCheckpoint many(run);
      expect_equal(many, one);
      EXPECT_EQ(many.reader().file_count(), static_cast<size_t>(tp * pp));
      const std::string fc1 = "language_model.decoder.layers.mlp.linear_fc1.weight";
      EXPECT_EQ(many.reader().chunk_count(fc1), static_cast<size_t>(4 * 2 * tp));
      export_checkpoint(run, std::nullopt, run / "hf");
      expect_equal(HfCheckpoint(run / "hf"), source);
    }
  }
}

TEST_F(Stream, RanksThatDoNotDivideAreRefused) {
  const fs::path run = directory_ / "run";
  const auto refusal = [&](int64_t tp, int64_t pp) {
    return error_of([&] {
      import_checkpoint("fixtures/hf", run, {.tensor_parallel = tp, .pipeline_parallel = pp});
    });
  };
  expect_mentions(refusal(4, 1), {"tensor_model_parallel_size=4 does not divide 2 query groups"});
  expect_mentions(refusal(1, 2),
                  {"pipeline_model_parallel_size=2 does not divide 3 layers; use one "
                   "of 1, 3"});
  expect_mentions(refusal(0, 1), {"tensor_model_parallel_size=0"});
  EXPECT_FALSE(fs::exists(run));
}

TEST_F(Stream, AFailureOfEitherSideEndsBoth) {
  class Broken : public TensorSource {
   public:
    const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
    at::Tensor read(const std::string&) const override { user_error("no such data"); }

   private:
    std::map<std::string, TensorInfo> tensors_ = {{"a", {at::kFloat, {100, 10}}}};
  };
  const Broken broken;
  const TensorList list(broken.tensors().begin(), broken.tensors().end());
  EXPECT_REFUSED(stream_rows(broken, list, 40, [](const auto&, auto) {}), "no such data");

  const HfCheckpoint whole("fixtures/hf");
  const TensorList all(whole.tensors().begin(), whole.tensors().end());
  int blocks = 0;
  EXPECT_EQ(error_of<MachineError>([&] {
              stream_rows(whole, all, 64, [&](const auto&, auto) {
                if (++blocks == 5) machine_error("disk full");
              });
            }),
            "disk full");
  EXPECT_EQ(blocks, 5);
}

// users' pain point 2: memory of conversion.
TEST_F(Stream, LimitsAreKeptBeforeAnythingIsWritten) {
  const fs::path run = directory_ / "run";
  EXPECT_REFUSED(import_checkpoint("fixtures/hf", run, {.max_memory = 1 << 20}), "--max-memory ",
                 "is too little");
  const TensorList huge = {{"t", {at::kFloat, {1 << 30, 1 << 20}}}};
  expect_mentions(error_of<MachineError>([&] { plan_stream(huge, 4'000'000'000, run); }),
                  {run.string() + " needs 4503599.63 GB"});
  EXPECT_FALSE(fs::exists(run));
  StreamPlan seen;
  import_checkpoint("fixtures/hf", run, {.on_plan = [&](const StreamPlan& plan) { seen = plan; }});
  EXPECT_EQ(seen.tensors, static_cast<int64_t>(MegatronCheckpoint(run).tensors().size()));
  EXPECT_LE(seen.peak_bytes, 1'500'000'000u);
}

}  // namespace
}  // namespace trestle
