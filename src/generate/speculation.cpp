#include "generate/speculation.h"

#include <algorithm>

namespace trestle {

namespace {

constexpr int64_t kFirstSteps = 2;  // of each way before they are compared
constexpr int64_t kAgainAfter = 32;
constexpr double kShare = 0.2;  // of the newest step in what is remembered

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
  way.seconds_a_token = way.steps == 0 ? now : (1 - kShare) * way.seconds_a_token + kShare * now;
  ++way.steps;
}

}  // namespace trestle
