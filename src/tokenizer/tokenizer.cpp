#include "tokenizer/tokenizer.h"

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "tokenizer/chat_template.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr size_t kMaxText = 1u << 30;  // parts of a piece are numbered in 31 bits

std::optional<fs::path> find_file(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  if (!fs::is_directory(path, error)) return path;
  for (const char* name :
       {"tekken.json", "tokenizer.json", "tokenizer/tekken.json", "tokenizer/tokenizer.json"}) {
    if (has_file(path / name)) return path / name;
  }
  return std::nullopt;
}

}  // namespace

Tokenizer Tokenizer::open(const fs::path& path) {
  std::optional<fs::path> file = find_file(path);
  if (!file) {
    require_directory(path, "tokenizer");
    user_error("tokenizer: {} holds neither tekken.json nor tokenizer.json", path.string());
  }
  Vocabulary vocabulary = read_vocabulary(*file);
  return Tokenizer(std::move(vocabulary), *std::move(file));
}

bool Tokenizer::exists(const fs::path& path) { return find_file(path).has_value(); }

Tokenizer::Tokenizer(Vocabulary vocabulary, fs::path file)
    : file_(std::move(file)),
      vocabulary_(std::make_unique<const Vocabulary>(std::move(vocabulary))),
      pretokenizer_(vocabulary_->pattern, file_.string()),
      encoder_(*vocabulary_, file_.string()) {
  for (size_t id = 0; id < vocabulary_->tokens.size(); ++id) {
    const Vocabulary::Token& token = vocabulary_->tokens[id];
    if (!token.special) continue;
    const auto [other, is_new] = specials_.emplace(token.bytes, static_cast<int64_t>(id));
    if (!is_new) {
      user_error("{}: the special tokens {} and {} have the same name", file_.string(),
                 other->second, id);
    }
  }
  if (vocabulary_->version) {
    version_ = *vocabulary_->version;
    settings_ = vocabulary_->settings;
  } else if (const auto chat_template = read_chat_template(file_.parent_path())) {
    version_ = template_version(*chat_template).value_or(kDefaultVersion);
    settings_ = template_settings(*chat_template);
  }
}

std::vector<int64_t> Tokenizer::encode(std::string_view text) const {
  if (text.size() > kMaxText) {
    user_error("a text of {} bytes; at most {} can be tokenized at once", text.size(), kMaxText);
  }
  std::vector<int64_t> ids;
  pretokenizer_.split(repair_utf8(text),
                      [&](std::string_view piece) { encoder_.encode(piece, ids); });
  return ids;
}

std::string Tokenizer::decode(std::span<const int64_t> ids, Specials specials) const {
  std::string text;
  StreamingDecoder decoder(*this, specials);
  for (const int64_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

std::optional<int64_t> Tokenizer::find_special(std::string_view name) const {
  const auto it = specials_.find(name);
  return it == specials_.end() ? std::nullopt : std::optional(it->second);
}

int64_t Tokenizer::special(std::string_view name) const {
  const auto id = find_special(name);
  if (!id) user_error("{}: the vocabulary has no special token {}", file_.string(), name);
  return *id;
}

const Vocabulary::Token& Tokenizer::token(int64_t id) const {
  if (id < 0 || id >= vocab_size()) {
    user_error("token id {} is outside the vocabulary of {}, which has ids 0 to {}", id,
               file_.string(), vocab_size() - 1);
  }
  return vocabulary_->tokens[static_cast<size_t>(id)];
}

std::string StreamingDecoder::push(int64_t id) {
  std::string text;
  if (!tokenizer_.is_special(id)) {
    repairer_.push(tokenizer_.bytes_of(id), text);
    return text;
  }
  repairer_.flush(text);
  if (specials_ == Specials::kKeep) text += tokenizer_.bytes_of(id);
  return text;
}

std::string StreamingDecoder::flush() {
  std::string text;
  repairer_.flush(text);
  return text;
}

}  // namespace trestle
