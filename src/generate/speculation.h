// Whether proposals pay: by the clock, since what a step of several rows costs depends on the
// machine and the weights' form, and how many proposals are kept on the text. Called by the
// generator.
#pragma once

#include <cstdint>

namespace trestle {

class Speculation {
 public:
  /// Proposals of each answer.
  static constexpr int64_t kTokens = 3;

  /// Whether the next step is to check proposals, where there are any: at first both ways are
  /// tried, then the one goes on that gave more tokens a second of late, and the other is tried now
  /// and then.
  bool is_worth() const;
  /// A step that made `tokens` of all answers; `seconds` without what was done with them.
  void note(bool with_proposals, int64_t tokens, double seconds);

 private:
  struct Way {
    int64_t steps = 0;
    double seconds_a_token = 0;  // of late
  };
  Way plain_, speculating_;
  int64_t since_other_ = 0;  // steps
};

}  // namespace trestle
