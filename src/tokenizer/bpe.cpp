#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

#include "base/error.h"

namespace trestle {

namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

// A part of the piece that is one token now; absorbed parts keep their place with an end of 0.
struct Part {
  uint32_t start, end;  // bytes
  int32_t previous, next;
  int32_t id;
};

// Two neighbours that may merge: `left` and the part that follows it, ending at byte `end`.
struct Candidate {
  int32_t rank;
  int32_t left;
  int32_t id;
  uint32_t end;
  // The queue hands out the greatest: lowest rank, then leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

TokenTable::TokenTable(const Vocabulary& vocabulary, std::string_view what)
    : tokens_(vocabulary.tokens), slots_(std::bit_ceil(2 * vocabulary.tokens.size() + 1)) {
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_[id].special) continue;
    const auto hash = static_cast<uint32_t>(std::hash<std::string_view>()(tokens_[id].bytes));
    Slot& slot = slots_[place(hash, tokens_[id].bytes)];
    if (slot.id >= 0) user_error("{}: the ids {} and {} have the same bytes", what, slot.id, id);
    slot = {hash, static_cast<int32_t>(id)};
  }
}

// Where `bytes` are, or the free slot where they would be.
size_t TokenTable::place(uint32_t hash, std::string_view bytes) const {
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at].id >= 0 &&
         (slots_[at].hash != hash || tokens_[static_cast<size_t>(slots_[at].id)].bytes != bytes)) {
    at = (at + 1) & (slots_.size() - 1);
  }
  return at;
}

int32_t TokenTable::find(std::string_view bytes) const {
  return slots_[place(static_cast<uint32_t>(std::hash<std::string_view>()(bytes)), bytes)].id;
}

BytePairEncoder::BytePairEncoder(const Vocabulary& vocabulary, std::string_view what)
    : ids_(vocabulary, what),
      by_bytes_(vocabulary.merges.empty()),
      whole_piece_first_(vocabulary.whole_piece_first) {
  byte_ids_.fill(-1);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const Vocabulary::Token& token = vocabulary.tokens[id];
    if (token.special) continue;
    longest_ = std::max(longest_, token.bytes.size());
    if (token.bytes.size() == 1) {
      byte_ids_[static_cast<uint8_t>(token.bytes[0])] = static_cast<int32_t>(id);
    }
  }
  const auto missing = std::find(byte_ids_.begin(), byte_ids_.end(), -1);
  if (missing != byte_ids_.end()) {
    user_error("{}: no token for the byte {}; a byte-level vocabulary has all 256", what,
               missing - byte_ids_.begin());
  }
  merges_.reserve(vocabulary.merges.size());
  int32_t rank = 0;
  for (const Vocabulary::Merge& merge : vocabulary.merges) {
    merges_.insert_or_assign(pair_key(merge.left, merge.right), Merged{rank++, merge.result});
  }
}

std::optional<BytePairEncoder::Merged> BytePairEncoder::find_merge(
    int32_t left, int32_t right, std::string_view together) const {
  if (together.size() > longest_) return std::nullopt;
  if (by_bytes_) {
    const int32_t id = ids_.find(together);
    return id < 0 ? std::nullopt : std::optional(Merged{id, id});
  }
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? std::nullopt : std::optional(it->second);
}

void BytePairEncoder::encode(std::string_view piece, std::vector<int64_t>& ids) const {
  if (whole_piece_first_) {
    if (const int32_t id = ids_.find(piece); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  const auto count = static_cast<int32_t>(piece.size());
  std::vector<Part> parts(piece.size());
  for (int32_t i = 0; i < count; ++i) {
    const auto at = static_cast<uint32_t>(i);
    parts[at] = {at, at + 1, i - 1, i + 1 < count ? i + 1 : -1,
                 byte_ids_[static_cast<uint8_t>(piece[at])]};
  }
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t left) {
    if (left < 0 || parts[static_cast<size_t>(left)].next < 0) return;
    const Part& a = parts[static_cast<size_t>(left)];
    const Part& b = parts[static_cast<size_t>(a.next)];
    if (const auto merged = find_merge(a.id, b.id, piece.substr(a.start, b.end - a.start))) {
      queue.push({merged->rank, left, merged->id, b.end});
    }
  };
  for (int32_t i = 0; i + 1 < count; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Part& a = parts[static_cast<size_t>(best.left)];
    // Parts only grow, so the end tells whether both neighbours are still the two that were seen.
    if (a.end == 0 || a.next < 0) continue;
    Part& b = parts[static_cast<size_t>(a.next)];
    if (b.end != best.end) continue;
    a.end = b.end;
    a.id = best.id;
    a.next = b.next;
    if (b.next >= 0) parts[static_cast<size_t>(b.next)].previous = best.left;
    b.end = 0;
    consider(a.previous);
    consider(best.left);
  }
  for (int32_t i = 0; i >= 0 && i < count; i = parts[static_cast<size_t>(i)].next) {
    ids.push_back(parts[static_cast<size_t>(i)].id);
  }
}

}  // namespace trestle
