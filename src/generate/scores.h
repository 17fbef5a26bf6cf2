// How near an answer is to the truth, one answer at a time: strings, receipts, letters of a choice.
// Called by evaluation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace trestle {

/// Levenshtein's distance over code points; a byte that is no UTF-8 counts as one.
int64_t edit_distance(std::string_view a, std::string_view b);

/// Average normalised Levenshtein similarity of one answer (Biten et al. 2019, "Scene Text Visual
/// Question Answering"): 1 - distance / longer length, 0 where that is not above 1/2. Letter case
/// does not count, nor does how much white space there is.
double anls(std::string_view answer, std::string_view wanted);

/// Fields as Donut's cal_f1 counts them: pairs of a key path without list positions and a value,
/// each matched once. F1 over documents is sum(same) / (sum(same) + sum(other) / 2).
struct FieldCounts {
  int64_t same = 0;
  /// In one of the two documents alone.
  int64_t other = 0;
};
FieldCounts count_fields(const Json& truth, const Json& answer);

/// max(0, 1 - d(answer, truth) / d(nothing, truth)) with the tree edit distance d (Zhang and Shasha
/// 1989): Donut's cal_acc. Of a document with nothing in it 1 for an answer likewise, else 0; 0 for
/// an answer of more than 2,000 nodes or 100,000 bytes, which is not worth the time.
double tree_edit_accuracy(const Json& truth, const Json& answer);

/// Which letter from A to H a text chooses: the first that stands alone, as in "(B)", "Answer: B."
/// or "b".
std::optional<char> choice_of(std::string_view text);
/// Whether a truth is such a letter and nothing more: "B", "(B)", "The answer is B."
bool is_choice(std::string_view text);

}  // namespace trestle
