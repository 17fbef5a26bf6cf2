#include "generate/speculation.h"

#include <algorithm>

namespace trestle {

namespace {

constexpr int64_t kFirstSteps = 3;  // of each way before they are compared
constexpr int64_t kAgainAfter = 32;
constexpr double kShare = 0.2;  // of the newest step in what is remembered
// What a step counts at most, of what is remembered: one that the system held up says little.
constexpr double kMostOfLate = 2;

}  // namespace

bool Speculation::is_worth() const {
  if (plain_.steps == 0) return false;
  if (speculating_.steps < kFirstSteps) return true;
  if (plain_.steps < kFirstSteps) return false;
  const bool pays = speculating_.seconds_a_token < plain_.seconds_a_token;
  return since_other_ < kAgainAfter ? pays : !pays;
}

void Speculation::note(bool with_proposals, int64_t tokens, double seconds) {
  Way& way = with_proposals ? speculating_ : plain_;
  const double now = seconds / static_cast<double>(std::max<int64_t>(1, tokens));
  const bool pays = speculating_.seconds_a_token < plain_.seconds_a_token;
  since_other_ = with_proposals == pays ? since_other_ + 1 : 0;
  // The first step of a way finds weights or loops cold.
  const bool begins = way.steps < 2;
  const double counted = begins ? now : std::min(now, kMostOfLate * way.seconds_a_token);
  way.seconds_a_token = begins ? now : (1 - kShare) * way.seconds_a_token + kShare * counted;
  ++way.steps;
}

}  // namespace trestle
