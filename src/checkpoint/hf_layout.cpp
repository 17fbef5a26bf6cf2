#include "checkpoint/hf_layout.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/paths.h"
#include "checkpoint/mistral_names.h"
#include "formats/safetensors.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kParamsFile = "params.json";
constexpr const char* kTekkenFile = "tekken.json";

constexpr std::array kSideFiles = {
    "tokenizer.json",
    "tokenizer_config.json",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "SYSTEM_PROMPT.txt",
    "CHAT_SYSTEM_PROMPT.txt",
};

// Replaces the prefix in place; false where it is another.
bool swap_prefix(std::string& name, std::string_view from, std::string_view to) {
  if (!name.starts_with(from)) return false;
  name.replace(0, from.size(), to);
  return true;
}

}  // namespace

std::string canonical_name(std::string_view name) {
  std::string result(name);
  swap_prefix(result, "language_model.model.", "model.") ||
      swap_prefix(result, "language_model.lm_head.", "lm_head.") ||
      swap_prefix(result, "model.language_model.", "model.") ||
      swap_prefix(result, "model.vision_tower.", "vision_tower.") ||
      swap_prefix(result, "model.multi_modal_projector.", "multi_modal_projector.");
  return result;
}

std::string spelled_name(const std::string& canonical, HfSpelling spelling) {
  std::string result = canonical;
  switch (spelling) {
    case HfSpelling::kLanguageModelFirst:
      swap_prefix(result, "model.", "language_model.model.") ||
          swap_prefix(result, "lm_head.", "language_model.lm_head.");
      break;
    case HfSpelling::kModelFirst:
      swap_prefix(result, "model.", "model.language_model.") ||
          swap_prefix(result, "vision_tower.", "model.vision_tower.") ||
          swap_prefix(result, "multi_modal_projector.", "model.multi_modal_projector.");
      break;
    case HfSpelling::kTextOnly:
      break;
    case HfSpelling::kMistral:
      if (const auto name = mistral_of_canonical(canonical)) return *name;
      break;
  }
  return result;
}

std::string HfFileNames::single() const { return fmt::format("{}.safetensors", stem); }

std::string HfFileNames::shard(size_t index, size_t count) const {
  return fmt::format("{}-{:05}-of-{:05}.safetensors", stem, index + 1, count);
}

std::string HfFileNames::index() const { return fmt::format("{}.safetensors.index.json", stem); }

HfFileNames hf_file_names(HfSpelling spelling) {
  return spelling == HfSpelling::kMistral ? HfFileNames{kParamsFile, "consolidated"}
                                          : HfFileNames{"config.json", "model"};
}

bool is_side_file(std::string_view name) {
  return std::ranges::find(kSideFiles, name) != kSideFiles.end();
}

std::vector<fs::path> side_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const char* name : kSideFiles) {
    if (has_file(directory / name)) files.push_back(directory / name);
  }
  const fs::path params = directory / kParamsFile;
  if (has_file(params) && !has_file(directory / "config.json")) files.push_back(params);
  return files;
}

// Mistral's readers know tekken.json and the prompts; Hugging Face's all but params.json.
bool belongs_beside(const fs::path& side_file, HfSpelling spelling) {
  const std::string name = side_file.filename().string();
  if (spelling != HfSpelling::kMistral) return name != kParamsFile;
  return name == kTekkenFile || name.ends_with("SYSTEM_PROMPT.txt");
}

std::map<std::string, std::string> read_weight_map(const fs::path& path) {
  const MappedFile file(path);
  const nlohmann::json index = parse_tensor_json(file.text(), path.string());
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    user_error("{}: weight_map is missing or empty", path.string());
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : weight_map->items()) {
    if (!shard.is_string())
      user_error("{}: tensor {}: its file is not a string", path.string(), name);
    const auto shard_name = shard.get<std::string>();
    if (shard_name != fs::path(shard_name).filename() || shard_name == ".." || shard_name == "." ||
        shard_name.empty()) {
      user_error("{}: tensor {}: file '{}' is not a plain name in the same directory",
                 path.string(), name, shard_name);
    }
    shard_of.emplace(name, shard_name);
  }
  return shard_of;
}

}  // namespace trestle
