#include "base/json.h"

#include <string>

#include "base/error.h"
#include "base/file.h"

namespace trestle {

namespace {

constexpr int kMaxDepth = 100;

// nlohmann's parser recurses only in its destructor; a depth limit keeps hostile nesting from
// reaching it.
void check_depth(std::string_view text, std::string_view what) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) user_error("{}: JSON nested deeper than {} levels", what, kMaxDepth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

}  // namespace

Json parse_json(std::string_view text, std::string_view what) {
  check_depth(text, what);
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    // The library's text starts with an identifier in brackets that says nothing to a user.
    const std::string message = error.what();
    const size_t end = message.find("] ");
    user_error("{}: not valid JSON: {}", what,
               end == std::string::npos ? message : message.substr(end + 2));
  }
}

Json read_json(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_json(file.text(), path.string());
}

void write_json(const std::filesystem::path& path, const Json& value) {
  write_text(path, value.dump(2) + "\n");
}

}  // namespace trestle
