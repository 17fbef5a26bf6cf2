// config.json of a Hugging Face checkpoint -> ModelConfig, with the defaults of transformers 5.x,
// and the config.json to write beside exported weights. Called by hf_checkpoint and by whoever
// needs sizes without weights.
#pragma once

#include <c10/core/ScalarType.h>

#include <filesystem>
#include <optional>
#include <string_view>

#include "base/json.h"
#include "formats/fp8.h"
#include "model/config.h"

namespace trestle {

/// Reads `mistral3` (text `ministral3` or `mistral`, vision `pixtral`) and text-only `ministral3`
/// and `mistral`. A key that is absent takes the default of transformers' config class. Throws
/// UserError (`what` names the file) for a missing, wrongly typed or unreasonable value and, by
/// name, for what is not supported: another model_type, rope_type, activation or quantization, a
/// sliding window, biases, dropout.
ModelConfig parse_hf_config(const Json& config, std::string_view what);
/// parse_hf_config of `directory`/config.json.
ModelConfig read_hf_config(const std::filesystem::path& directory);

/// What the config says of tied embeddings, as transformers 5 reads it: of a multimodal model the
/// top level alone (its default is true), of a text model its one level (false). Nothing for a top
/// level of false over a text_config of true, which peft writes behind a head that was trained
/// beside a tied embedding: untied where there is a head; where there is none only text_config
/// makes sense.
std::optional<bool> stated_tie(const Json& config);

/// `quantization_config.weight_block_size`; nothing where it is absent or null.
std::optional<Fp8Block> stated_fp8_block(const Json& config, std::string_view what);

/// `config` as it should stand beside weights of `dtype`: tie_word_embeddings at both levels, dtype
/// replaced wherever it is stated, quantization_config gone. Everything else, transformers_version
/// too, is kept.
Json export_config(Json config, bool tie_word_embeddings, at::ScalarType dtype);

}  // namespace trestle
