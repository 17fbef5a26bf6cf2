// The flags that say how answers are computed, and not which. Called by `trestle generate` and
// `trestle evaluate`.
#pragma once

#include "flags/command.h"
#include "generate/generator.h"

namespace trestle {

/// --prefill-chunk-size and --prompt-lookup-num-tokens.
void add_decoding_flags(Command command, DecodingOptions& decoding);

}  // namespace trestle
