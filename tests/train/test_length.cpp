// How long a run is that goes on with another batch: what train.num_epochs and train.train_samples
// leave to train, and not the whole run in steps of today.
#include <gtest/gtest.h>

#include "errors.h"
#include "train/testing.h"

namespace trestle {
namespace {

class Length : public testing::RunTest {
 protected:
  // Three steps of two samples are made of it.
  TrainConfig begun() const {
    TrainConfig config = this->config("run", "lora");
    config.model.params_dtype = "float32";
    config.train.global_batch_size = 2;
    config.scheduler.lr_warmup_iters = 0;
    config.train.exit_interval = 3;
    return config;
  }
  static TrainConfig going_on(TrainConfig config, int64_t batch) {
    config.train.global_batch_size = batch;
    config.train.exit_interval.reset();
    config.checkpoint.load = config.checkpoint.save;
    return config;
  }
  static int64_t steps(const TrainConfig& config) {
    return Trainer(config, kOtherBatch).config().train.train_iters;
  }
  static inline const Asked kOtherBatch{.keys = {}, .may_change = {"train.global_batch_size"}};
};

TEST_F(Length, EpochsThatAreLeftFillStepsOfAnotherBatch) {
  TrainConfig config = begun();
  config.train.num_epochs = 2;
  EXPECT_EQ(Trainer(config).config().train.train_iters, 8);  // as the Bridge: twice four of 7 rows
  run(config);
  EXPECT_EQ(steps(going_on(config, 2)), 8);
  TrainConfig more = going_on(config, 4);
  more.train.num_epochs = 4;
  EXPECT_EQ(steps(more), 3 + 6);  // 22 of 28 samples
  more.train.num_epochs = 0.5;
  EXPECT_EQ(steps(more), 3);  // there is nothing left
  more.train.num_epochs = 2;
  more.train.exit_interval = 4;
  Trainer(more, kOtherBatch).run();
  // Of a checkpoint in which the batch has changed already.
  Trainer rest(going_on(more, 4));
  EXPECT_EQ(rest.config().train.train_iters, 3 + 2);
  rest.run();
  EXPECT_EQ(rest.progress().step, 5);
  EXPECT_EQ(rest.progress().consumed_samples, 14);  // two passes
}

TEST_F(Length, SamplesThatAreLeftFillStepsOfAnotherBatch) {
  TrainConfig config = begun();
  config.train.train_samples = 16;
  EXPECT_EQ(Trainer(config).config().train.train_iters, 8);
  run(config);
  EXPECT_EQ(steps(going_on(config, 2)), 8);
  TrainConfig more = going_on(config, 4);
  more.train.train_iters = 4;  // of 4, as a run of such steps alone would have
  EXPECT_EQ(steps(more), 3 + 2);
  // So a schedule is held against what will be.
  more.scheduler.lr_warmup_iters = 4;
  EXPECT_NO_THROW(more.validate_values());
  EXPECT_EQ(steps(more), 5);
  more.scheduler.lr_warmup_iters = 5;
  EXPECT_REFUSED(steps(more), "scheduler.lr_warmup_iters=5");
  more.scheduler.lr_warmup_iters = 4;
  more.checkpoint.finetune = true;
  EXPECT_REFUSED(more.validate_values(), "scheduler.lr_warmup_iters=4");
}

}  // namespace
}  // namespace trestle
