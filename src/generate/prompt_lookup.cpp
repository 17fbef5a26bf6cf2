#include "generate/prompt_lookup.h"

#include <algorithm>

namespace trestle {

namespace {

constexpr size_t kLongestNgram = 2;  // transformers' max_matching_ngram_size

}  // namespace

std::span<const int64_t> prompt_lookup(std::span<const int64_t> ids, int64_t most) {
  if (most < 1 || ids.empty()) return {};
  for (size_t n = std::min(kLongestNgram, ids.size() - 1); n > 0; --n) {
    const auto ngram = ids.last(n);
    // Something follows the n-gram, and so it is not the last one itself.
    const auto before = ids.first(ids.size() - 1);
    const auto found = std::search(before.begin(), before.end(), ngram.begin(), ngram.end());
    if (found == before.end()) continue;
    const auto start = static_cast<size_t>(found - before.begin()) + n;
    return ids.subspan(start, std::min(static_cast<size_t>(most), ids.size() - start));
  }
  return {};
}

}  // namespace trestle
