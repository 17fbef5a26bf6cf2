#include "data/gguf_assets.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "image/pixels.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

enum TokenType : int32_t { kNormal = 1, kControl = 3, kUnused = 5 };  // llama.cpp's

// Ways of cutting text that llama.cpp has a name for: Mistral's and GPT-2's.
constexpr std::pair<std::string_view, const char*> kPreTokenizers[] = {
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "tekken"},
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "gpt-2"},
};

// The merges that ranks stand for: a token may come of any two that it is cut into, and the token
// of the lowest id comes first (transformers' `generate_merges` orders them alike).
std::vector<Vocabulary::Merge> merges_of_ranks(const Vocabulary& vocabulary) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const auto& [bytes, special] = vocabulary.tokens[id];
    if (!special) ids.emplace(bytes, static_cast<int32_t>(id));
  }
  std::vector<Vocabulary::Merge> merges;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const auto& [bytes, special] = vocabulary.tokens[id];
    if (special) continue;
    const auto first = static_cast<std::ptrdiff_t>(merges.size());
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const std::string_view whole = bytes;
      const auto left = ids.find(whole.substr(0, cut)), right = ids.find(whole.substr(cut));
      if (left != ids.end() && right != ids.end()) {
        merges.push_back({left->second, right->second, static_cast<int32_t>(id)});
      }
    }
    std::sort(merges.begin() + first, merges.end(), [](const auto& a, const auto& b) {
      return std::pair(a.left, a.right) < std::pair(b.left, b.right);
    });
  }
  return merges;
}

GgufMetadata tokenizer_keys(const Tokenizer& tokenizer, int64_t vocab_size) {
  const std::string file = tokenizer.file().string();
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  if (tokenizer.vocab_size() > vocab_size) {
    user_error("{} has {} ids but the config says vocab_size={}; are they of one model?", file,
               tokenizer.vocab_size(), vocab_size);
  }
  const auto* pre = std::ranges::find(kPreTokenizers, std::string_view(vocabulary.pattern),
                                      [](const auto& known) { return known.first; });
  if (pre == std::end(kPreTokenizers)) {
    user_error("{}: llama.cpp has no pre-tokenizer for the pattern {}; it has tekken's and GPT-2's",
               file, vocabulary.pattern);
  }
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (const auto& [bytes, special] : vocabulary.tokens) {
    tokens.push_back(special ? bytes : byte_level(bytes));
    types.push_back(special ? kControl : kNormal);
  }
  for (int64_t id = tokenizer.vocab_size(); id < vocab_size; ++id) {
    tokens.push_back(fmt::format("[PAD{}]", id));
    types.push_back(kUnused);
  }
  std::vector<std::string> merges;
  for (const auto& [left, right, result] :
       vocabulary.merges.empty() ? merges_of_ranks(vocabulary) : vocabulary.merges) {
    merges.push_back(tokens[static_cast<size_t>(left)] + ' ' + tokens[static_cast<size_t>(right)]);
  }

  GgufMetadata keys;
  keys.set_text("tokenizer.ggml.model", "gpt2");
  keys.set_text("tokenizer.ggml.pre", pre->second);
  keys.set_texts("tokenizer.ggml.tokens", tokens);
  keys.set_int32s("tokenizer.ggml.token_type", types);
  keys.set_texts("tokenizer.ggml.merges", merges);
  keys.set_uint32("tokenizer.ggml.bos_token_id", tokenizer.special("<s>"));
  keys.set_uint32("tokenizer.ggml.eos_token_id", tokenizer.special("</s>"));
  if (const auto id = tokenizer.find_special("<unk>")) {
    keys.set_uint32("tokenizer.ggml.unknown_token_id", *id);
  }
  if (const auto id = tokenizer.find_special("<pad>")) {
    keys.set_uint32("tokenizer.ggml.padding_token_id", *id);
  }
  keys.set_bool("tokenizer.ggml.add_bos_token", true);
  keys.set_bool("tokenizer.ggml.add_eos_token", false);
  return keys;
}

}  // namespace

GgufAssets read_gguf_assets(const fs::path& directory, const ModelConfig& config) {
  GgufAssets assets;
  if (config.vision) {
    const ImageProcessorConfig image = read_image_processor_config(directory);
    assets.image_mean = image.mean;
    assets.image_std = image.std;
  }
  if (!Tokenizer::exists(directory)) return assets;
  const Tokenizer tokenizer = Tokenizer::open(directory);
  assets.tokenizer = tokenizer_keys(tokenizer, config.text.vocab_size);
  assets.image_break_id = tokenizer.find_special("[IMG_BREAK]");
  if (const auto chat_template = read_chat_template(tokenizer.file().parent_path())) {
    assets.tokenizer.set_text("tokenizer.chat_template", *chat_template);
  }
  return assets;
}

}  // namespace trestle
