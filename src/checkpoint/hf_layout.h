// How a Hugging Face model directory, or its sibling in Mistral's form, names its files and
// tensors. Called by the reader and the writer beside it, the bridge, peft and the hub.
//
// The canonical names are those of the text-only files with the towers beside them:
//   model.embed_tokens.weight, model.layers.N.*, model.norm.weight, lm_head.weight   language
//   vision_tower.*                                                                   vision
//   multi_modal_projector.*                                                          projector
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// How a file spells the canonical names.
enum class HfSpelling {
  /// language_model.model.*, language_model.lm_head.weight, vision_tower.*: the official files.
  kLanguageModelFirst,
  /// model.language_model.*, lm_head.weight, model.vision_tower.*: the modules of transformers 5.
  kModelFirst,
  /// model.*, lm_head.weight: Ministral3ForCausalLM.
  kTextOnly,
  /// layers.*, vision_encoder.*, output.weight: Mistral's own files, consolidated.safetensors
  /// beside params.json. Their q and k have another order of rows, which is MistralRows' to make.
  kMistral,
};

/// Hugging Face's spellings -> canonical. Names of none of them pass unchanged, for the bridge to
/// refuse.
std::string canonical_name(std::string_view name);
std::string spelled_name(const std::string& canonical, HfSpelling spelling);

/// The files of a directory, by how their tensors are spelled.
struct HfFileNames {
  const char* config;
  const char* stem;
  std::string single() const;
  std::string shard(size_t index, size_t count) const;  // from 0
  std::string index() const;
};
HfFileNames hf_file_names(HfSpelling spelling);

/// Whether a file of this name belongs beside a model's weights: tokenizer, processor, chat
/// template and generation files.
bool is_side_file(std::string_view name);
/// Those that exist in `directory`, and params.json where no config.json says what it says. Throws
/// UserError where a name is taken by anything but a file: a link that leads nowhere, a directory.
std::vector<std::filesystem::path> side_files(const std::filesystem::path& directory);

/// weight_map of an index: tensor -> file name, a plain one. Throws UserError naming the index.
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& index);
/// Whether the readers of such a directory know a side file.
bool belongs_beside(const std::filesystem::path& side_file, HfSpelling spelling);

}  // namespace trestle
