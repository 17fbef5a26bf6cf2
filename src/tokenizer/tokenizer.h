// Text to ids and back with the vocabulary of a checkpoint: tekken.json or a byte-level
// tokenizer.json. Called by chat (ids of conversations), generate (decoding), the demo and `trestle
// tokenize`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/bpe.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocabulary.h"

namespace trestle {

enum class Specials { kSkip, kKeep };

/// Immutable once open; every const function may be called from several threads.
class Tokenizer {
 public:
  /// `path`: a tekken.json or tokenizer.json under any name, or a directory, in which the first of
  /// tekken.json, tokenizer.json, tokenizer/tekken.json and tokenizer/tokenizer.json is taken (the
  /// last two is where a Megatron checkpoint keeps it). Throws UserError on a missing or malformed
  /// file.
  static Tokenizer open(const std::filesystem::path& path);
  /// Whether open finds a file there.
  static bool exists(const std::filesystem::path& path);

  /// The file that was opened; its directory holds the chat template and the system prompt, if
  /// there are any.
  const std::filesystem::path& file() const { return file_; }

  /// Ids of ordinary tokens only, whatever the text says; no <s>. Invalid UTF-8 counts as U+FFFD.
  std::vector<int64_t> encode(std::string_view text) const;

  /// A special token ends the run of bytes before it: a character cut by one gives U+FFFD on both
  /// sides. Throws UserError on ids outside [0, vocab_size).
  std::string decode(std::span<const int64_t> ids, Specials specials = Specials::kSkip) const;

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  int64_t vocab_size() const { return static_cast<int64_t>(vocabulary_->tokens.size()); }
  bool is_special(int64_t id) const { return token(id).special; }
  /// Bytes of an ordinary token, the name of a special one.
  std::string_view bytes_of(int64_t id) const { return token(id).bytes; }
  std::optional<int64_t> find_special(std::string_view name) const;
  /// As find_special, but throws UserError when the vocabulary has no such token.
  int64_t special(std::string_view name) const;

  /// Layout of conversations that the file states (tekken.json) or its chat template shows; 13 if
  /// neither does.
  int version() const { return version_; }
  /// What conversations of layout v15 may set of the model: of the tekken.json, else of the chat
  /// template. Nothing for older layouts, and where neither says it.
  const std::optional<SettingsBuilder>& settings() const { return settings_; }
  /// The file's `image` section; only a tekken.json can have one.
  const std::optional<ImageSection>& image() const { return vocabulary_->image; }

 private:
  static constexpr int kDefaultVersion = 13;

  Tokenizer(Vocabulary vocabulary, std::filesystem::path file);
  const Vocabulary::Token& token(int64_t id) const;

  std::filesystem::path file_;
  std::unique_ptr<const Vocabulary> vocabulary_;  // a fixed place: the encoder keeps views into it
  Pretokenizer pretokenizer_;
  BytePairEncoder encoder_;
  std::unordered_map<std::string_view, int64_t> specials_;
  int version_ = kDefaultVersion;
  std::optional<SettingsBuilder> settings_;
};

/// Text of ids that come one by one, in whole characters; the concatenation of all results is what
/// decode gives.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer, Specials specials = Specials::kSkip)
      : tokenizer_(tokenizer), specials_(specials) {}

  /// The characters that `id` completes; empty while one is unfinished (at most three bytes are
  /// held).
  std::string push(int64_t id);
  /// What is left at the end: nothing, or one U+FFFD.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  Specials specials_;
  Utf8Repairer repairer_;
};

}  // namespace trestle
