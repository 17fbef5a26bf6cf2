// tokenizer.json of Hugging Face's tokenizers, byte-level BPE only: what Mistral's converter
// writes, and small ones trained with that library.
#include <array>
#include <unordered_map>

#include "base/error.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocabulary.h"

namespace trestle {

namespace {

// What "use_regex": true of the ByteLevel step stands for.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The byte-level alphabet: printable Latin-1 stands for itself, the other bytes in order for
// U+0100, U+0101, ... Index: code point; value: byte or -1.
std::array<int, 0x144> byte_alphabet() {
  std::array<int, 0x144> bytes{};
  bytes.fill(-1);
  size_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
    bytes[printable ? static_cast<size_t>(b) : next++] = b;
  }
  return bytes;
}

// Written form -> bytes. Code points of the alphabet take one or two bytes of UTF-8.
std::string token_bytes(std::string_view written, const std::string& what) {
  static const std::array<int, 0x144> kAlphabet = byte_alphabet();
  std::string bytes;
  for (size_t i = 0; i < written.size(); ++i) {
    size_t code = static_cast<uint8_t>(written[i]);
    if (code >= 0x80 && i + 1 < written.size()) {
      code = code < 0xE0 ? (code & 0x1F) << 6 | (static_cast<uint8_t>(written[++i]) & 0x3F)
                         : kAlphabet.size();
    }
    if (code >= kAlphabet.size() || kAlphabet[code] < 0) {
      user_error("{}: the token \"{}\" is not in the byte-level alphabet", what, written);
    }
    bytes += static_cast<char>(kAlphabet[code]);
  }
  if (bytes.empty()) user_error("{}: an empty token", what);
  return bytes;
}

bool is_set(const VocabularyJson& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && !it->is_null() && *it != false && *it != VocabularyJson("");
}

// The pattern of [Split, ByteLevel] or of a ByteLevel that brings its own.
std::string read_pattern(const VocabularyJson& file, const std::string& what) {
  const auto refuse = [&](const std::string& why) {
    user_error("{}: pre_tokenizer: {}; Split by a Regex, then ByteLevel, is what this program does",
               what, why);
  };
  const VocabularyJson& pre = object_field(file, "pre_tokenizer", what);
  const std::string place = what + ": pre_tokenizer";
  VocabularyJson steps = VocabularyJson::array({pre});
  if (string_field(pre, "type", place) == "Sequence") {
    steps = array_field(pre, "pretokenizers", place);
  }
  std::string pattern;
  bool byte_level = false;
  for (const VocabularyJson& step : steps) {
    const std::string type = string_field(step, "type", place);
    if (byte_level) refuse("a step after ByteLevel");
    if (type == "Split" && pattern.empty()) {
      if (string_field(step, "behavior", place) != "Isolated" || is_set(step, "invert")) {
        refuse("a Split that is not Isolated");
      }
      pattern = string_field(object_field(step, "pattern", place), "Regex", place);
    } else if (type == "ByteLevel") {
      byte_level = true;
      if (is_set(step, "add_prefix_space")) refuse("add_prefix_space");
      const bool use_regex = !step.contains("use_regex") || is_set(step, "use_regex");
      if (use_regex && !pattern.empty()) refuse("two patterns");
      if (use_regex) pattern = kByteLevelPattern;
    } else {
      refuse(fmt::format("\"{}\"", type));
    }
  }
  if (!byte_level || pattern.empty()) refuse("no ByteLevel step or no pattern");
  return pattern;
}

std::vector<Vocabulary::Merge> read_merges(const VocabularyJson& model,
                                           const std::unordered_map<std::string_view, int32_t>& ids,
                                           const std::string& what) {
  std::vector<Vocabulary::Merge> merges;
  const VocabularyJson& rows = array_field(model, "merges", what);
  merges.reserve(rows.size());
  for (const VocabularyJson& row : rows) {
    std::string_view left, right;
    if (row.is_string()) {
      const std::string_view pair = row.get_ref<const std::string&>();
      const size_t space = pair.find(' ');
      left = pair.substr(0, space);
      right = space == std::string_view::npos ? "" : pair.substr(space + 1);
    } else if (row.is_array() && row.size() == 2 && row[0].is_string() && row[1].is_string()) {
      left = row[0].get_ref<const std::string&>();
      right = row[1].get_ref<const std::string&>();
    }
    const auto find = [&](std::string_view token) {
      const auto it = ids.find(token);
      if (it == ids.end()) {
        user_error("{}: merges[{}]: \"{}\" is not in the vocabulary", what, merges.size(), token);
      }
      return it->second;
    };
    merges.push_back({find(left), find(right), find(std::string(left).append(right))});
  }
  return merges;
}

}  // namespace

std::string byte_level(std::string_view bytes) {
  static const std::array<std::string, 256> kWritten = [] {
    std::array<std::string, 256> written;
    const std::array<int, 0x144> alphabet = byte_alphabet();
    for (size_t code = 0; code < alphabet.size(); ++code) {
      if (alphabet[code] < 0) continue;
      append_utf8(written[static_cast<size_t>(alphabet[code])], static_cast<uint32_t>(code));
    }
    return written;
  }();
  std::string text;
  for (const char byte : bytes) text += kWritten[static_cast<uint8_t>(byte)];
  return text;
}

Vocabulary read_tokenizer_json(const VocabularyJson& file, const std::filesystem::path& path) {
  const std::string what = path.string();
  const VocabularyJson& model = object_field(file, "model", what);
  const std::string place = what + ": model";
  if (string_field(model, "type", place) != "BPE") {
    user_error("{}: \"type\" is {}, but it must be \"BPE\"", place, model["type"].dump());
  }
  if (is_set(file, "normalizer")) user_error("{}: a normalizer is not supported", what);
  for (const char* key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    if (is_set(model, key)) user_error("{}: \"{}\" is not supported", place, key);
  }

  const VocabularyJson& rows = object_field(model, "vocab", place);
  const VocabularyJson none = VocabularyJson::array();
  const VocabularyJson& added =
      file.contains("added_tokens") ? array_field(file, "added_tokens", what) : none;
  const auto limit = std::min(static_cast<int64_t>(rows.size() + added.size()), kMaxVocabulary);
  Vocabulary vocabulary;
  vocabulary.pattern = read_pattern(file, what);
  vocabulary.whole_piece_first = is_set(model, "ignore_merges");
  std::vector<bool> taken;
  const auto put = [&](int64_t id, std::string bytes, bool special) {
    const auto index = static_cast<size_t>(id);
    if (index >= taken.size()) {
      taken.resize(index + 1);
      vocabulary.tokens.resize(index + 1);
    }
    if (taken[index]) user_error("{}: the id {} is given to two tokens", what, id);
    taken[index] = true;
    vocabulary.tokens[index] = {std::move(bytes), special};
  };
  std::unordered_map<std::string_view, int64_t> special;
  for (const VocabularyJson& row : added) {
    const std::string where = what + ": added_tokens";
    const int64_t id = integer_field(row, "id", where, 0, limit - 1);
    put(id, string_field(row, "content", where), true);
    special.emplace(row["content"].get_ref<const std::string&>(), id);
  }
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(rows.size());
  for (const auto& [written, value] : rows.items()) {
    const int64_t id = integer_value(value, written.c_str(), place, 0, limit - 1);
    ids.emplace(written, static_cast<int32_t>(id));
    const auto it = special.find(written);
    if (it == special.end() || it->second != id) put(id, token_bytes(written, place), false);
  }
  // A number that no token has (some files leave gaps) is a special token without a name.
  for (size_t id = 0; id < taken.size(); ++id) {
    if (!taken[id]) vocabulary.tokens[id] = {fmt::format("<id_{}>", id), true};
  }
  vocabulary.merges = read_merges(model, ids, place);
  return vocabulary;
}

}  // namespace trestle
