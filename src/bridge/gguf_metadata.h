// The keys of llama.cpp's `mistral3` architecture and of its `pixtral` projector. Called by
// gguf.cpp.
#pragma once

#include <string>

#include "bridge/gguf.h"

namespace trestle {

/// Vision layers that llama.cpp runs: up to the one whose output `vision_feature_layer` names.
int64_t gguf_vision_layers(const ModelConfig& config);
/// Whether a file holds the tensor of this canonical name: not of layers behind those.
bool gguf_uses(const std::string& hf, const ModelConfig& config);

/// `mistral3.*`. Throws UserError, naming the config's key, for what the architecture cannot
/// express.
GgufMetadata gguf_language_metadata(const TextConfig& text);
/// `clip.*`, likewise.
GgufMetadata gguf_vision_metadata(const ModelConfig& config, const GgufAssets& assets);

}  // namespace trestle
