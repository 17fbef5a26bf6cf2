// What a run learns from, and the threads that prepare it.
#include <gtest/gtest.h>

#include "train/training_data.h"

namespace trestle {
namespace {

TEST(SampleWorkers, AreAskedForOrOfTheCoresBesideACard) {
  TrainConfig config;
  EXPECT_EQ(sample_workers(config, /*on_card=*/false, /*cores=*/16), 0);
  EXPECT_EQ(sample_workers(config, /*on_card=*/true, /*cores=*/16), 8);
  EXPECT_EQ(sample_workers(config, /*on_card=*/true, /*cores=*/4), 3);
  EXPECT_EQ(sample_workers(config, /*on_card=*/true, /*cores=*/1), 1);
  EXPECT_EQ(sample_workers(config, /*on_card=*/true, /*cores=*/0), 1);  // not known
  for (const int64_t asked : {0, 3, 200}) {
    config.dataset.num_workers = asked;
    EXPECT_EQ(sample_workers(config, /*on_card=*/false, /*cores=*/2), asked);
    EXPECT_EQ(sample_workers(config, /*on_card=*/true, /*cores=*/2), asked);
  }
}

}  // namespace
}  // namespace trestle
