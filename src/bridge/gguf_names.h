// llama.cpp's names of tensors. Called by gguf.cpp and gguf_source.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/ggml.h"

namespace trestle {

/// The embedding of [IMG_BREAK] in mmproj.
inline constexpr const char* kGgufRowBreak = "v.token_embd.img_break";

/// Whether a tensor of this canonical name belongs into mmproj.
bool is_gguf_vision(const std::string& hf);
/// model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight.
std::string gguf_name(const std::string& hf);
/// The type in which llama.cpp's converter writes the tensor of this (llama.cpp) name where
/// matrices are to be `wanted`.
GgmlType gguf_stored_type(const std::string& name, const std::vector<int64_t>& shape,
                          GgmlType wanted);

}  // namespace trestle
