// What a tokenizer file holds, whichever of the two formats it has, and the two readers.
// Filled by tekken.cpp and tokenizer_json.cpp; read by tokenizer.cpp and tokenizer_bpe.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// Unordered: base/json.h's ordered objects take quadratic time for a vocabulary of 131,072 keys.
using VocabularyJson = nlohmann::json;

/// The `image` section of a tekken.json, in pixels (patch_size, max_size) and patches (merge).
struct ImageSection {
  int64_t patch_size = 0;
  int64_t max_size = 0;
  int64_t merge = 1;
};

/// What a conversation of layout v15 may set of the model, beside what it says: the section
/// `model_settings_builder` of a tekken.json, or what a chat template takes.
struct SettingsBuilder {
  /// Values of "reasoning_effort"; empty where it cannot be set.
  std::vector<std::string> efforts = {};
  /// The one written where a conversation asks for none; empty if `efforts` is.
  std::string default_effort = {};
  /// Whether it may ask for an answer of a JSON schema.
  bool json_schema = false;
};

struct Vocabulary {
  struct Token {
    std::string bytes;  // of a special token: its name
    bool special = false;
  };
  /// Ids of two neighbours and of what they become; the list is in order of precedence.
  struct Merge {
    int32_t left, right, result;
  };

  std::string pattern;
  std::vector<Token> tokens;  // by id
  /// Empty: any neighbours whose bytes together are a token may merge, the lowest id first
  /// (tekken).
  std::vector<Merge> merges;
  /// A piece that is a token as a whole is taken as it is.
  bool whole_piece_first = true;
  /// Layout of conversations (3, 7, 11, 13, 15, ...); absent in a tokenizer.json.
  std::optional<int> version;
  std::optional<ImageSection> image;
  std::optional<SettingsBuilder> settings;  // of layouts from v15 on
};

/// The first layout that writes what a conversation sets of the model.
inline constexpr int kSettingsVersion = 15;

/// More ids than any model has; keeps a hostile file from asking for memory.
inline constexpr int64_t kMaxVocabulary = 1 << 22;

/// Both throw UserError, naming the file, for whatever is not in order: ranks that are not 0, 1, 2,
/// ..., bad base64, ids outside the vocabulary, steps that this program does not have (normalizers,
/// another pre-tokenizer, ...).
Vocabulary read_tekken(const VocabularyJson& file, const std::filesystem::path& path);
Vocabulary read_tokenizer_json(const VocabularyJson& file, const std::filesystem::path& path);

/// Bytes as tokenizer.json and GGUF write them, one printable character a byte (GPT-2's alphabet).
std::string byte_level(std::string_view bytes);

/// Parses the file and tells by its keys which of the two it is.
Vocabulary read_vocabulary(const std::filesystem::path& path);

/// A field of a file nobody vouches for; `what` names file and place in the UserError.
const VocabularyJson& object_field(const VocabularyJson& object, const char* key,
                                   const std::string& what);
const VocabularyJson& array_field(const VocabularyJson& object, const char* key,
                                  const std::string& what);
std::string string_field(const VocabularyJson& object, const char* key, const std::string& what);
int64_t integer_field(const VocabularyJson& object, const char* key, const std::string& what,
                      int64_t low, int64_t high);
/// The check inside integer_field, for a value already found.
int64_t integer_value(const VocabularyJson& value, const char* key, const std::string& what,
                      int64_t low, int64_t high);

}  // namespace trestle
