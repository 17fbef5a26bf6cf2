// Byte-pair merging of one piece of text. Called by the tokenizer only.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace trestle {

/// Ordinary tokens by their bytes. Most look-ups find nothing, so a slot holds enough of the hash
/// to say so at once.
class TokenTable {
 public:
  TokenTable(const Vocabulary& vocabulary, std::string_view what);
  /// The id, or -1.
  int32_t find(std::string_view bytes) const;

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;
  };
  size_t place(uint32_t hash, std::string_view bytes) const;

  const std::vector<Vocabulary::Token>& tokens_;
  std::vector<Slot> slots_;  // a power of two, at most half full
};

/// Starts from single bytes and merges the neighbours of lowest rank, leftmost first, until none
/// may merge. O(n log n) in the bytes of the piece. Refers to `vocabulary`, which must
/// outlive it.
class BytePairEncoder {
 public:
  /// Throws UserError, naming `what`, when two tokens have the same bytes or a byte has no token.
  BytePairEncoder(const Vocabulary& vocabulary, std::string_view what);

  void encode(std::string_view piece, std::vector<int64_t>& ids) const;

 private:
  struct Merged {
    int32_t rank, id;
  };
  std::optional<Merged> find_merge(int32_t left, int32_t right, std::string_view together) const;

  TokenTable ids_;
  std::unordered_map<uint64_t, Merged> merges_;  // empty: by the bytes
  std::array<int32_t, 256> byte_ids_{};
  size_t longest_ = 0;  // bytes of the longest token
  bool by_bytes_ = true;
  bool whole_piece_first_ = true;
};

}  // namespace trestle
