#include "base/json.h"

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

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

Json parse(std::string_view text, std::string_view what, const Json::parser_callback_t& on_event) {
  check_depth(text, what);
  try {
    return Json::parse(text, on_event);
  } catch (const nlohmann::json::exception& error) {
    // The library's text starts with an identifier in brackets that says nothing to a user.
    const std::string message = error.what();
    const size_t end = message.find("] ");
    user_error("{}: not valid JSON: {}", what,
               end == std::string::npos ? message : message.substr(end + 2));
  }
}

}  // namespace

Json parse_json(std::string_view text, std::string_view what) { return parse(text, what, nullptr); }

Json parse_json_of_single_keys(std::string_view text, std::string_view what) {
  using Event = Json::parse_event_t;
  std::vector<std::set<std::string>> open;  // the keys of each object that is not closed
  std::optional<std::string> repeated;
  Json value = parse(text, what, [&](int /*depth*/, Event event, const Json& parsed) {
    if (event == Event::object_start) {
      open.emplace_back();
    } else if (event == Event::object_end) {
      open.pop_back();
    } else if (event == Event::key && !open.back().insert(parsed.get<std::string>()).second &&
               !repeated) {
      repeated = parsed.get<std::string>();
    }
    return true;
  });
  if (repeated) {
    user_error("{}: \"{}\" stands twice in one object; leave one out", what, *repeated);
  }
  return value;
}

Json read_json(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_json_of_single_keys(file.text(), path.string());
}

std::string excerpt(const Json& value) {
  constexpr size_t kShown = 64;
  std::string text =
      one_line(value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace));
  return text.size() > kShown ? text.substr(0, kShown) + "..." : text;
}

void write_json(const std::filesystem::path& path, const Json& value) {
  write_text(path, value.dump(2) + "\n");
}

}  // namespace trestle
