#include "tokenizer/chat_template.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/paths.h"
#include "tokenizer/utf8.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMaxTemplate = 1 << 22;

std::optional<std::string> template_in_json(const fs::path& path) {
  const Json json = read_json(path);
  if (!json.is_object() || !json.contains("chat_template")) return std::nullopt;
  const Json& value = json["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const Json& entry : value) {
      if (entry.is_object() && entry.value("name", Json()) == "default" &&
          entry.value("template", Json()).is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  if (value.is_null() || value.is_array()) return std::nullopt;
  user_error("{}: \"chat_template\" must be a string or a list of named templates", path.string());
}

// The digits of \xNN, \uNNNN and \UNNNNNNNN.
uint32_t hex_digits(std::string_view digits) {
  uint32_t value = 0;
  for (const char c : digits) {
    const bool is_digit = c >= '0' && c <= '9';
    const char lower = static_cast<char>(c | 0x20);
    if (!is_digit && (lower < 'a' || lower > 'f')) return 0xFFFD;
    value = value << 4 | static_cast<uint32_t>(is_digit ? c - '0' : lower - 'a' + 10);
  }
  return value;
}

// The Jinja string literal that starts at `at` with its quote, behind which `at` is set; escapes
// are Python's.
std::optional<std::string> string_literal(std::string_view text, size_t& at) {
  const char quote = at < text.size() ? text[at] : '\0';
  if (quote != '\'' && quote != '"') return std::nullopt;
  std::string out;
  for (size_t i = at + 1; i < text.size(); ++i) {
    if (text[i] == quote) {
      at = i + 1;
      return out;
    }
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    if (++i == text.size()) return std::nullopt;
    const char c = text[i];
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0 && i + digits < text.size()) {
      append_utf8(out, hex_digits(text.substr(i + 1, digits)));
      i += digits;
    } else if (c == 'n') {
      out += '\n';
    } else if (c == 't') {
      out += '\t';
    } else if (c == 'r') {
      out += '\r';
    } else if (c == '\\' || c == '\'' || c == '"') {
      out += c;
    } else if (c != '\n') {  // an escaped line break joins the lines
      out += {'\\', c};
    }
  }
  return std::nullopt;
}

// The string literal that the template first gives the variable `name`, if it is not empty.
std::optional<std::string> set_literal(std::string_view chat_template, std::string_view name) {
  const std::string set = fmt::format("set {}", name);
  for (size_t at = chat_template.find(set); at != std::string_view::npos;
       at = chat_template.find(set, at)) {
    at += set.size();
    const size_t equals = chat_template.find_first_not_of(" \t", at);
    if (equals == std::string_view::npos || chat_template[equals] != '=') continue;
    size_t value = chat_template.find_first_not_of(" \t", equals + 1);
    if (value == std::string_view::npos) return std::nullopt;
    auto text = string_literal(chat_template, value);
    if (text && !text->empty()) return text;
    return std::nullopt;
  }
  return std::nullopt;
}

// The string literals of the Jinja list whose "[" stands before `at`; none where it does not end.
std::vector<std::string> list_of_literals(std::string_view text, size_t at) {
  std::vector<std::string> list;
  while (true) {
    at = text.find_first_not_of(" \t\n,", at);
    if (at == std::string_view::npos) return {};
    if (text[at] == ']') return list;
    auto each = string_literal(text, at);
    if (!each) return {};
    list.push_back(*std::move(each));
  }
}

}  // namespace

std::optional<std::string> read_chat_template(const fs::path& directory) {
  if (has_file(directory / "chat_template.jinja")) {
    return repair_utf8(read_text(directory / "chat_template.jinja", kMaxTemplate));
  }
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    if (!has_file(directory / name)) continue;
    if (auto text = template_in_json(directory / name)) return text;
  }
  return std::nullopt;
}

std::optional<int> template_version(std::string_view chat_template) {
  const auto has = [&](std::string_view marker) {
    return chat_template.find(marker) != std::string_view::npos;
  };
  if (has("[MODEL_SETTINGS]")) return kSettingsVersion;
  if (has("[ARGS]")) return has("[CALL_ID]") ? 11 : 13;
  if (has("[TOOL_CONTENT]") || has("[SYSTEM_PROMPT]")) return 7;
  if (has("[INST]")) return 3;
  return std::nullopt;
}

std::optional<SettingsBuilder> template_settings(std::string_view chat_template) {
  if (template_version(chat_template) != kSettingsVersion) return std::nullopt;
  constexpr std::string_view kEfforts = "reasoning_effort not in [";
  SettingsBuilder builder;
  builder.json_schema = chat_template.find(R"("json_schema": )") != std::string_view::npos;
  if (const size_t at = chat_template.find(kEfforts); at != std::string_view::npos) {
    builder.efforts = list_of_literals(chat_template, at + kEfforts.size());
    const auto otherwise = set_literal(chat_template, "reasoning_effort");
    if (!otherwise || std::ranges::find(builder.efforts, *otherwise) == builder.efforts.end()) {
      return std::nullopt;
    }
    builder.default_effort = *otherwise;
  }
  if (builder.efforts.empty() && !builder.json_schema) return std::nullopt;
  return builder;
}

std::optional<std::string> default_system_prompt(const fs::path& directory) {
  if (const auto chat_template = read_chat_template(directory)) {
    if (auto text = set_literal(*chat_template, "default_system_message")) return text;
  }
  if (has_file(directory / "SYSTEM_PROMPT.txt")) {
    return repair_utf8(read_text(directory / "SYSTEM_PROMPT.txt", kMaxTemplate));
  }
  return std::nullopt;
}

}  // namespace trestle
