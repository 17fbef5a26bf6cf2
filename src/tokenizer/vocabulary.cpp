#include "tokenizer/vocabulary.h"

#include "base/error.h"
#include "base/file.h"

namespace trestle {

namespace {

const VocabularyJson& field(const VocabularyJson& object, const char* key,
                            const std::string& what) {
  if (!object.is_object() || !object.contains(key)) user_error("{}: \"{}\" is missing", what, key);
  return object.at(key);
}

[[noreturn]] void wrong_type(const VocabularyJson& value, const char* key, const std::string& what,
                             const char* wanted) {
  user_error("{}: \"{}\" is {} {}, but it must be {}", what, key,
             value.is_array() || value.is_object() ? "an" : "a", value.type_name(), wanted);
}

}  // namespace

const VocabularyJson& object_field(const VocabularyJson& object, const char* key,
                                   const std::string& what) {
  const VocabularyJson& value = field(object, key, what);
  if (!value.is_object()) wrong_type(value, key, what, "an object");
  return value;
}

const VocabularyJson& array_field(const VocabularyJson& object, const char* key,
                                  const std::string& what) {
  const VocabularyJson& value = field(object, key, what);
  if (!value.is_array()) wrong_type(value, key, what, "an array");
  return value;
}

std::string string_field(const VocabularyJson& object, const char* key, const std::string& what) {
  const VocabularyJson& value = field(object, key, what);
  if (!value.is_string()) wrong_type(value, key, what, "a string");
  return value.get<std::string>();
}

int64_t integer_field(const VocabularyJson& object, const char* key, const std::string& what,
                      int64_t low, int64_t high) {
  return integer_value(field(object, key, what), key, what, low, high);
}

int64_t integer_value(const VocabularyJson& value, const char* key, const std::string& what,
                      int64_t low, int64_t high) {
  if (!value.is_number_integer()) wrong_type(value, key, what, "a whole number");
  // Unsigned values past int64 would wrap to negative ones.
  const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
  const int64_t number = huge ? INT64_MAX : value.get<int64_t>();
  if (number < low || number > high) {
    user_error("{}: \"{}\" is {}, but it must be from {} to {}", what, key, value.dump(), low,
               high);
  }
  return number;
}

Vocabulary read_vocabulary(const std::filesystem::path& path) {
  const MappedFile file(path);
  VocabularyJson json;
  try {
    json = VocabularyJson::parse(file.text());
  } catch (const VocabularyJson::exception& error) {
    const std::string message = error.what();
    const size_t end = message.find("] ");
    user_error("{}: not valid JSON: {}", path.string(),
               end == std::string::npos ? message : message.substr(end + 2));
  }
  if (json.is_object() && json.contains("config") && json.contains("vocab")) {
    return read_tekken(json, path);
  }
  if (json.is_object() && json.contains("model")) return read_tokenizer_json(json, path);
  user_error("{}: neither a tekken.json (\"config\", \"vocab\") nor a tokenizer.json (\"model\")",
             path.string());
}

}  // namespace trestle
