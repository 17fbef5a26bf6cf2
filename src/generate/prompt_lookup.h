// Proposals for what comes next, copied from where the last tokens stood before: an answer that
// quotes its prompt (a receipt's fields, a document) repeats it. Called by the generator, which has
// the model check all of them in one forward (Saxena 2023, "Prompt Lookup Decoding").
#pragma once

#include <cstdint>
#include <span>

namespace trestle {

/// At most `most` ids that followed the first earlier place of the last two ids, or else of the
/// last one; a part of `ids`, empty where there is none. What transformers'
/// PromptLookupCandidateGenerator proposes, whose longest n-gram is 2 too.
std::span<const int64_t> prompt_lookup(std::span<const int64_t> ids, int64_t most);

}  // namespace trestle
