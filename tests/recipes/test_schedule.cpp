// Learning rate and weight decay of each step against megatron-core's scheduler
// (tools/make_schedule_goldens.py), and what it asserts.
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "errors.h"
#include "recipes/effects.h"
#include "recipes/recipes.h"
#include "recipes/schedule.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;

TrainConfig usual() {
  TrainConfig config;
  config.train.train_iters = 20;
  config.train.global_batch_size = 4;
  config.optimizer.lr = 1e-3;
  config.optimizer.min_lr = 1e-5;
  config.optimizer.weight_decay = 0.1;
  config.scheduler.lr_warmup_iters = 0;
  return config;
}

TEST(Schedule, IsMegatrons) {
  const Json cases = read_json("recipes/golden/schedules.json");
  ASSERT_GE(cases.size(), 15);
  for (const Json& each : cases) {
    TrainConfig config = usual();
    for (const auto& [key, value] : each["keys"].items()) {
      set_field(config,
                {"scheduler." + key, value.is_string() ? value.get<std::string>() : value.dump()});
    }
    check_schedule(config, true);
    int64_t step = 0;
    for (const Json& wanted : each["steps"]) {
      ++step;
      EXPECT_NEAR(learning_rate(config, step), wanted[0].get<double>(), 1e-15)
          << each["keys"].dump() << " step " << step;
      EXPECT_NEAR(weight_decay(config, step), wanted[1].get<double>(), 1e-15)
          << each["keys"].dump() << " step " << step;
    }
    EXPECT_EQ(step, 24);
  }
}

TEST(Schedule, WhatDoesNotFitTogetherIsRefused) {
  const auto said = [](const std::vector<Assignment>& keys) {
    return error_of([&] {
      const SettledRun run = settle("ministral3_3b_finetune_config", {}, keys);
      run.config.validate_values();
      refuse_without_effect(run);
    });
  };
  const std::vector<std::pair<std::vector<Assignment>, std::string>> cases = {
      {{{"scheduler.lr_decay_style", "WSD"}}, "needs scheduler.lr_wsd_decay_iters"},
      {{{"scheduler.lr_decay_style", "WSD"}, {"scheduler.lr_wsd_decay_iters", "51"}},
       "scheduler.lr_wsd_decay_iters=51 is above train.train_iters=50"},
      {{{"scheduler.lr_wsd_decay_iters", "5"}}, "scheduler.lr_decay_style=cosine"},
      {{{"scheduler.start_weight_decay", "0.3"}}, "is above scheduler.end_weight_decay=0.1"},
      {{{"scheduler.start_weight_decay", "0.01"}}, "weight_decay_incr_style=constant"},
      {{{"scheduler.lr_warmup_fraction", "0.1"}, {"scheduler.lr_warmup_iters", "3"}},
       "scheduler.lr_warmup_fraction says it"},
      {{{"scheduler.lr_warmup_fraction", "1"}}, "must be at least 0 and below 1"},
      {{{"train.train_samples", "100"}, {"train.num_epochs", "2"}}, "both say how long"},
      {{{"train.train_samples", "31"}}, "do not fill a step of train.global_batch_size=32"},
      {{{"train.num_epochs", "2"}, {"train.train_iters", "20"}}, "train.num_epochs says it"},
      {{{"train.train_samples", "640"}, {"train.train_iters", "20"}},
       "train.train_samples says it"},
  };
  for (const auto& [keys, why] : cases) {
    expect_mentions(said(keys), {why});
  }
}

TEST(Schedule, SamplesAreSteps) {
  const SettledRun run =
      settle("ministral3_3b_finetune_config", {},
             {{"train.train_samples", "1000"}, {"train.global_batch_size", "16"}});
  EXPECT_EQ(run.config.train.train_iters, 62);  // the last eight fill none
}

}  // namespace
}  // namespace trestle
