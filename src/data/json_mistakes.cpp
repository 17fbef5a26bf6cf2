#include "data/json_mistakes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "data/own_row.h"

namespace trestle {

namespace {

constexpr uint64_t kMostBytes = 1ull << 28;

std::string text_of(const MappedFile& file, uint64_t offset, uint64_t size) {
  std::string text(size, '\0');
  file.copy(file.bytes().subspan(offset, size), reinterpret_cast<std::byte*>(text.data()));
  return text;
}

std::optional<Json> parsed(const std::string& text) {
  try {
    return parse_json(text, "");
  } catch (const UserError&) {
    return std::nullopt;
  }
}

// Rows of an object that is none itself.
void refuse_wrapped(const std::string& path, const Json& whole) {
  if (!whole.is_object() || is_own_row(whole)) return;
  std::vector<std::string> keys;
  for (const auto& [key, value] : whole.items()) {
    if (value.is_array() && !value.empty() && value.front().is_object()) {
      keys.push_back(one_line(key));
    }
  }
  if (keys.empty()) return;
  user_error(
      "{} is one object with rows under \"{}\"; the rows are to be the file: take the list out, as "
      "jq '.[\"{}\"]' does{}",
      path, fmt::join(keys, "\" and \""), keys.front(),
      keys.size() > 1 ? ", each into a file of its own" : "");
}

// By the signs that part its columns: as many in the first line as in the second, or the name says
// it.
void refuse_table(const std::string& path, std::string_view first, std::string_view second) {
  for (const char sign : {'\t', ',', ';'}) {
    const auto columns = std::ranges::count(first, sign);
    const bool is_named = path.ends_with(sign == '\t' ? ".tsv" : ".csv");
    if (columns == 0 || (!is_named && std::ranges::count(second, sign) != columns)) continue;
    constexpr size_t kShown = 60;
    user_error(
        "{} is a table as CSV, by its first line \"{}\"; make it a JSON object a row "
        "(pandas.read_csv(FILE).to_json(OUT, orient=\"records\", lines=True)) or Parquet",
        path, one_line(std::string(first.substr(0, kShown))));
  }
}

}  // namespace

void refuse_other_files(const MappedFile& file, const JsonRows& rows) {
  if (rows.is_array || rows.rows.empty()) return;
  const std::string path = file.path().string();
  const auto line = [&](size_t i) {
    return i < rows.rows.size() ? text_of(file, rows.rows[i].offset, rows.rows[i].size) : "";
  };
  const std::string first = line(0);
  if (const auto json = parsed(first)) {
    if (rows.rows.size() == 1) refuse_wrapped(path, *json);
    return;
  }
  const std::string_view begin = trimmed(first);
  if (!begin.starts_with('{')) return refuse_table(path, begin, trimmed(line(1)));
  const uint64_t size = file.bytes().size();
  if (size > kMostBytes) return;
  if (const auto json = parsed(text_of(file, 0, size))) refuse_wrapped(path, *json);
}

}  // namespace trestle
