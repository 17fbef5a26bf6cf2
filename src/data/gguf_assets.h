// Tokenizer, chat template and image normalisation of a checkpoint as GGUF keys. Called by
// `trestle export --gguf-path`.
#pragma once

#include <filesystem>

#include "bridge/gguf.h"
#include "model/config.h"

namespace trestle {

/// Reads what lies in `directory`. Ids that the config has and the tokenizer lacks become unused
/// tokens. Throws UserError on malformed files, a tokenizer of more ids than the config, and one
/// whose way of cutting text llama.cpp does not know.
GgufAssets read_gguf_assets(const std::filesystem::path& directory, const ModelConfig& config);

}  // namespace trestle
