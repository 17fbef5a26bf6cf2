// When proposals are checked and when not, by what steps cost and give.
#include <gtest/gtest.h>

#include "generate/speculation.h"

namespace trestle {
namespace {

// Steps by what is_worth() says -> how many of them were with proposals.
int64_t steps_with(Speculation& speculation, int64_t steps, double plain_seconds,
                   double seconds_with, int64_t tokens_with) {
  int64_t with = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const bool proposes = speculation.is_worth();
    with += proposes ? 1 : 0;
    speculation.note(proposes, proposes ? tokens_with : 1, proposes ? seconds_with : plain_seconds);
  }
  return with;
}

TEST(Speculation, GoesOnWhereItIsFaster) {
  Speculation speculation;
  EXPECT_FALSE(speculation.is_worth());  // the first step is plain, to compare with
  EXPECT_GE(steps_with(speculation, 200, 1, 1.5, 3), 180);
}

TEST(Speculation, RestsWhereItIsSlowerAndTriesAgain) {
  Speculation speculation;
  const int64_t with = steps_with(speculation, 400, 1, 1.5, 1);
  EXPECT_GT(with, 4);
  EXPECT_LE(with, 20);
  // From now on it pays: found within a few trials.
  steps_with(speculation, 300, 1, 1.5, 4);
  EXPECT_GE(steps_with(speculation, 100, 1, 1.5, 4), 90);
}

// Steps that found nothing to propose are plain ones.
TEST(Speculation, WaitsForProposals) {
  Speculation speculation;
  for (int i = 0; i < 100; ++i) speculation.note(false, 1, 1);
  EXPECT_TRUE(speculation.is_worth());
}

}  // namespace
}  // namespace trestle
