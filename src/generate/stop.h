// The tokens at which an answer ends. Called by generate's callers, who know the checkpoint's
// files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace trestle {

/// The id of `</s>` and those that `eos_token_id` of generation_config.json beside the tokenizer
/// names (one or a list). Throws UserError when there are none, or the file is malformed.
std::vector<int64_t> stop_ids(const Tokenizer& tokenizer);

}  // namespace trestle
