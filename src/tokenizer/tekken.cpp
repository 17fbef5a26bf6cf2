// tekken.json, Mistral's own tokenizer file: base64 tokens in rank order, and a table of special
// tokens before them.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <string_view>

#include "base/base64.h"
#include "base/error.h"
#include "tokenizer/vocabulary.h"

namespace trestle {

namespace {

// What files up to version 7 may leave out.
constexpr const char* kOldSpecialTokens[] = {"<unk>",
                                             "<s>",
                                             "</s>",
                                             "[INST]",
                                             "[/INST]",
                                             "[AVAILABLE_TOOLS]",
                                             "[/AVAILABLE_TOOLS]",
                                             "[TOOL_RESULTS]",
                                             "[/TOOL_RESULTS]",
                                             "[TOOL_CALLS]",
                                             "[IMG]",
                                             "<pad>",
                                             "[IMG_BREAK]",
                                             "[IMG_END]",
                                             "[PREFIX]",
                                             "[MIDDLE]",
                                             "[SUFFIX]",
                                             "[SYSTEM_PROMPT]",
                                             "[/SYSTEM_PROMPT]",
                                             "[TOOL_CONTENT]"};

int read_version(const VocabularyJson& config, const std::string& what) {
  const std::string text = string_field(config, "version", what);
  int version = 0;
  const char* end = text.data() + text.size();
  if (!text.starts_with('v') ||
      std::from_chars(text.data() + 1, end, version) != std::from_chars_result{end, std::errc()} ||
      version < 1 || version > 99) {
    user_error("{}: \"version\" is \"{}\", but it must be v3, v7, v11, v13 or v15", what, text);
  }
  return version;
}

std::vector<std::string> special_names(const VocabularyJson& file, int version, int64_t count,
                                       const std::string& what) {
  std::vector<std::string> names;
  if (file.contains("special_tokens") && !file["special_tokens"].is_null()) {
    const VocabularyJson& rows = array_field(file, "special_tokens", what);
    for (const VocabularyJson& row : rows) {
      const std::string place = fmt::format("{}: special_tokens[{}]", what, names.size());
      // Decoders count rows, encoders read ranks: a file in which the two differ means two things.
      const auto rank = static_cast<int64_t>(names.size());
      if (integer_field(row, "rank", place, 0, kMaxVocabulary) != rank) {
        user_error("{}: \"rank\" is {}, but it must be {}", place, row["rank"].dump(), rank);
      }
      names.push_back(string_field(row, "token_str", place));
    }
  } else if (version <= 7) {
    names.assign(std::begin(kOldSpecialTokens), std::end(kOldSpecialTokens));
  } else {
    user_error("{}: \"special_tokens\" is missing, which only versions up to v7 may do", what);
  }
  if (static_cast<int64_t>(names.size()) > count) {
    user_error("{}: {} special tokens, but \"default_num_special_tokens\" is {}", what,
               names.size(), count);
  }
  for (auto i = static_cast<int64_t>(names.size()); i < count; ++i) {
    names.push_back(fmt::format("<SPECIAL_{}>", i));
  }
  return names;
}

std::optional<ImageSection> read_image(const VocabularyJson& file, const std::string& what) {
  const char* key = file.contains("multimodal") ? "multimodal" : "image";
  if (!file.contains(key) || file[key].is_null()) return std::nullopt;
  const VocabularyJson& image = object_field(file, key, what);
  const std::string place = fmt::format("{}: {}", what, key);
  ImageSection section;
  section.patch_size = integer_field(image, "image_patch_size", place, 1, 1 << 16);
  section.max_size = integer_field(image, "max_image_size", place, 1, 1 << 16);
  if (image.contains("spatial_merge_size")) {
    section.merge = integer_field(image, "spatial_merge_size", place, 1, 1 << 10);
  }
  return section;
}

// The values that mistral-common knows; a tokenizer takes some of them.
constexpr std::array<std::string_view, 7> kEfforts = {"none", "minimal", "low", "medium",
                                                      "high", "xhigh",   "max"};

void require_keys(const VocabularyJson& object, std::span<const std::string_view> known,
                  const std::string& what) {
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::find(known, key) == known.end()) {
      user_error("{}: nobody reads \"{}\"; the keys here are {}", what, key,
                 fmt::join(known, ", "));
    }
  }
}

// `key` may be left out, or say what is so anyway.
void require_fixed(const VocabularyJson& object, const char* key, const VocabularyJson& value,
                   const std::string& what) {
  if (object.contains(key) && object[key] != value) {
    user_error("{}: \"{}\" is {}, but it must be {}", what, key, object[key].dump(), value.dump());
  }
}

void read_efforts(const VocabularyJson& section, const std::string& what,
                  SettingsBuilder& builder) {
  constexpr std::array<std::string_view, 4> kKeys = {"type", "accepts_none", "default", "values"};
  require_keys(section, kKeys, what);
  require_fixed(section, "type", "enum", what);
  require_fixed(section, "accepts_none", true, what);
  for (const VocabularyJson& value : array_field(section, "values", what)) {
    const std::string effort = value.is_string() ? value.get<std::string>() : "";
    if (std::ranges::find(kEfforts, effort) == kEfforts.end()) {
      user_error("{}: \"values\" has {}, but there are {}", what, value.dump(),
                 fmt::join(kEfforts, ", "));
    }
    if (std::ranges::count(builder.efforts, effort) > 0) {
      user_error("{}: \"values\" has \"{}\" twice", what, effort);
    }
    builder.efforts.push_back(effort);
  }
  builder.default_effort = string_field(section, "default", what);
  if (std::ranges::find(builder.efforts, builder.default_effort) == builder.efforts.end()) {
    user_error(
        "{}: \"default\" is \"{}\", but \"values\" has {}", what, builder.default_effort,
        builder.efforts.empty() ? "none" : fmt::format("{}", fmt::join(builder.efforts, ", ")));
  }
}

std::optional<SettingsBuilder> read_settings(const VocabularyJson& file, int version,
                                             const std::string& what) {
  constexpr const char* kSection = "model_settings_builder";
  if (!file.contains(kSection) || file[kSection].is_null()) return std::nullopt;
  if (version < kSettingsVersion) {
    user_error("{}: \"{}\" is for layouts from v{} on, but the \"version\" is v{}", what, kSection,
               kSettingsVersion, version);
  }
  const VocabularyJson& section = object_field(file, kSection, what);
  const std::string place = fmt::format("{}: {}", what, kSection);
  constexpr std::array<std::string_view, 2> kFields = {"reasoning_effort", "json_schema"};
  require_keys(section, kFields, place);
  const auto has = [&](const char* key) {
    return section.contains(key) && !section[key].is_null();
  };
  SettingsBuilder builder;
  if (has("reasoning_effort")) {
    read_efforts(object_field(section, "reasoning_effort", place), place + ": reasoning_effort",
                 builder);
  }
  if (has("json_schema")) {
    const VocabularyJson& schema = object_field(section, "json_schema", place);
    const std::string where = place + ": json_schema";
    constexpr std::array<std::string_view, 3> kKeys = {"type", "accepts_none", "default"};
    require_keys(schema, kKeys, where);
    require_fixed(schema, "type", "json_schema", where);
    require_fixed(schema, "accepts_none", false, where);
    require_fixed(schema, "default", nullptr, where);
    builder.json_schema = true;
  }
  return builder;
}

}  // namespace

Vocabulary read_tekken(const VocabularyJson& file, const std::filesystem::path& path) {
  const std::string what = path.string();
  const VocabularyJson& config = object_field(file, "config", what);
  const VocabularyJson& rows = array_field(file, "vocab", what);
  const int64_t special_count =
      integer_field(config, "default_num_special_tokens", what, 0, kMaxVocabulary);
  const int64_t size = integer_field(config, "default_vocab_size", what, 0, kMaxVocabulary);
  const int64_t text_count = size - special_count;
  if (text_count < 256 || text_count > static_cast<int64_t>(rows.size())) {
    user_error(
        "{}: \"default_vocab_size\" {} less \"default_num_special_tokens\" {} leaves {} rows, but "
        "there are {} and the first 256 are the bytes",
        what, size, special_count, text_count, rows.size());
  }

  Vocabulary vocabulary;
  vocabulary.pattern = string_field(config, "pattern", what);
  vocabulary.version = read_version(config, what);
  vocabulary.image = read_image(file, what);
  vocabulary.settings = read_settings(file, *vocabulary.version, what);
  vocabulary.tokens.reserve(static_cast<size_t>(size));
  for (std::string& name : special_names(file, *vocabulary.version, special_count, what)) {
    vocabulary.tokens.push_back({std::move(name), true});
  }
  for (int64_t rank = 0; rank < text_count; ++rank) {
    const VocabularyJson& row = rows[static_cast<size_t>(rank)];
    const auto place = [&] { return fmt::format("{}: vocab[{}]", what, rank); };
    const auto field = [&](const char* key) { return row.is_object() ? row.find(key) : row.end(); };
    const auto rank_field = field("rank"), bytes_field = field("token_bytes");
    if (rank_field == row.end() || *rank_field != rank) {
      user_error("{}: \"rank\" is not {}", place(), rank);
    }
    std::optional<std::string> bytes;
    if (bytes_field != row.end() && bytes_field->is_string()) {
      bytes = decode_base64(bytes_field->get_ref<const std::string&>());
    }
    if (!bytes || bytes->empty()) {
      user_error("{}: \"token_bytes\" is not base64 of at least one byte", place());
    }
    if (rank < 256 && (bytes->size() != 1 || static_cast<uint8_t>(bytes->front()) != rank)) {
      user_error("{}: the first 256 tokens must be the bytes 0 to 255 in order", place());
    }
    vocabulary.tokens.push_back({std::move(*bytes), false});
  }
  return vocabulary;
}

}  // namespace trestle
