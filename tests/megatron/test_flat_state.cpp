// The flat buckets of an optimizer in the form dp_reshardable, as the real bridge saved them with
// two data-parallel ranks.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "hf_testing.h"
#include "megatron/flat_state.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;
using testing::same_bits;

const std::string kBucket =
    "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, "
    "torch.float32).bucket_idx_0.";
const std::string kOutput =
    "language_model.decoder.layers.1.self_attention.linear_proj.adapter.linear_in.weight";

std::vector<std::string> names_of(const MegatronCheckpoint& checkpoint) {
  std::vector<std::string> names;
  for (const auto& [name, info] : checkpoint.tensors()) names.push_back(name);
  return names;
}

TEST(FlatState, GivesEveryParameterItsOwn) {
  const MegatronCheckpoint checkpoint("fixtures/megatron/lora");
  const FlatState state(checkpoint, names_of(checkpoint));
  int64_t elements = 0;
  for (const auto& [name, info] : checkpoint.tensors()) {
    const at::Tensor master = state.read(whole_shard("optimizer.state.param." + name, info));
    EXPECT_TRUE(same_bits(master.to(info.dtype), checkpoint.read(name).reshape({-1}))) << name;
    elements += master.numel();
    EXPECT_GT(
        state.read(whole_shard("optimizer.state.exp_avg_sq." + name, info)).max().item<float>(), 0);
  }
  EXPECT_EQ(elements, 7648 - 5 * 32);  // the rest is padding
  // Counted by hand: module.parameters() backwards, over the border of the two ranks' shares.
  const at::Tensor bucket = checkpoint.reader().read_padded(kBucket + "exp_avg");
  const TensorInfo& info = checkpoint.tensors().at(kOutput);
  const Shard whole = whole_shard("optimizer.state.exp_avg." + kOutput, info);
  EXPECT_TRUE(same_bits(state.read(whole), bucket.narrow(0, 4800, 288)));
}

TEST(FlatState, GivesPartsInAnyCut) {
  const MegatronCheckpoint checkpoint("fixtures/megatron/lora");
  const FlatState state(checkpoint, names_of(checkpoint));
  for (const auto& [name, info] : checkpoint.tensors()) {
    Shard shard = whole_shard("optimizer.state.exp_avg." + name, info);
    const at::Tensor all = state.read(shard);
    const std::vector<TensorBox> whole = shard.boxes;
    shard.boxes = elements_of(whole, 5, all.numel() - 7);
    EXPECT_TRUE(same_bits(state.read(shard), all.narrow(0, 5, all.numel() - 12))) << name;
    const int64_t half = info.shape[1] / 2;
    shard.boxes = {{{0, half}, {info.shape[0], half}}};
    EXPECT_TRUE(
        same_bits(state.read(shard), all.view(info.shape).narrow(1, half, half).reshape({-1})))
        << name;
  }
}

TEST(FlatState, WhatDoesNotFitIsRefused) {
  const MegatronCheckpoint checkpoint("fixtures/megatron/lora");
  const std::vector<std::string> names = names_of(checkpoint);
  const auto open = [&](const std::vector<std::string>& trained) {
    return error_of([&] { const FlatState state(checkpoint, trained); });
  };
  std::vector<std::string> fewer = names;
  std::erase(fewer, kOutput);
  expect_mentions(open(fewer), {"dp_reshardable", "checkpoint.load_optim=false"});
  std::vector<std::string> more = names;
  more.push_back("language_model.decoder.layers.9.mlp.linear_fc1.adapter.linear_in.weight");
  expect_mentions(open(more), {"there are no weights of language_model.decoder.layers.9"});
  EXPECT_FALSE(is_flat_state("optimizer.state.exp_avg." + kOutput));
  EXPECT_TRUE(is_flat_state(kBucket + "param"));
}

}  // namespace
}  // namespace trestle
