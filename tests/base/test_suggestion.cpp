// What "did you mean" names, and what is too far for it.
#include <gtest/gtest.h>

#include <map>

#include "base/suggestion.h"

namespace trestle {
namespace {

const std::vector<std::string> kKeys = {
    "train.train_iters",        "optimizer.lr", "optimizer.min_lr", "dataset.path_or_dataset",
    "checkpoint.save_interval", "ddp.nccl_ub",  "optimizer",        "ddp"};

TEST(Suggestion, IsWhatIsNear) {
  for (const auto& [given, meant] : std::map<std::string, std::string>{
           {"train.train_itres", "train.train_iters"},  // two letters swapped are one slip
           {"tarin.train_iters", "train.train_iters"},
           {"train.train-iters", "train.train_iters"},
           {"Train.Train_Iters", "train.train_iters"},
           {"lr", "optimizer.lr"},
           {"train.lr", "optimizer.lr"},
           {"optimizer.lrr", "optimizer.lr"},
           {"save_intervall", "checkpoint.save_interval"},
           {"optimzer", "optimizer"}}) {
    EXPECT_EQ(nearest(given, kKeys), meant) << given;
  }
  EXPECT_EQ(did_you_mean("lr", kKeys, "none"), "did you mean optimizer.lr?");
}

TEST(Suggestion, IsNothingWhereNothingIsNear) {
  for (const char* given : {"ddp.nonsense", "dpp.use_ub", "optimizer.xyz", "foo", "foo.bar", "",
                            "train.save_intervall", "dataset.rows", "d"}) {
    EXPECT_EQ(nearest(given, kKeys), std::nullopt) << given;
  }
  EXPECT_EQ(nearest("path", {"data"}), std::nullopt);
  EXPECT_EQ(nearest("nmae", {"data", "name"}), "name");
  EXPECT_EQ(nearest("a", {}), std::nullopt);
  EXPECT_EQ(nearest("5", {"4", "fp8"}), std::nullopt);
  // A name may be as long as a file.
  EXPECT_EQ(nearest(std::string(1 << 20, 'a'), kKeys), std::nullopt);
  EXPECT_EQ(did_you_mean("foo", kKeys, "none is near"), "none is near");
}

}  // namespace
}  // namespace trestle
