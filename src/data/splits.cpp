#include "data/splits.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/file.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// `datasets`' own words for its three splits, those of training first.
constexpr std::array<std::string_view, 10> kKnown = {"train", "training",  "validation", "valid",
                                                     "val",   "dev",       "test",       "testing",
                                                     "eval",  "evaluation"};
constexpr size_t kOfTraining = 2;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
// Of a name in UTF-8 whatever is not ASCII counts as a letter.
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
}
bool parts(char beside, char edge) {
  return !is_letter(beside) && !(is_digit(beside) && is_digit(edge));
}

bool has_word(std::string_view name, std::string_view word) {
  for (size_t at = name.find(word); at != name.npos; at = name.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || parts(name[at - 1], word.front())) &&
        (end == name.size() || parts(name[end], word.back()))) {
      return true;
    }
  }
  return false;
}

bool has_known_word(std::string_view name) {
  return std::ranges::any_of(kKnown, [&](std::string_view word) { return has_word(name, word); });
}

// `datasets` gives such a file to both splits: a run would train on what it is measured by.
void refuse_both(const fs::path& file, const fs::path& whole) {
  const auto word_of = [&](auto first, auto last) {
    const auto found =
        std::find_if(first, last, [&](std::string_view word) { return is_of_split(file, word); });
    return found == last ? std::string_view() : *found;
  };
  const auto middle = kKnown.begin() + kOfTraining;
  const std::string_view training = word_of(kKnown.begin(), middle);
  const std::string_view other = word_of(middle, kKnown.end());
  if (training.empty() || other.empty()) return;
  user_error(
      "{} is of split '{}' and of '{}' by its name; rename it after one of them, or name it alone "
      "as the data",
      whole.string(), training, other);
}

// Relative to `path`, sorted.
std::vector<fs::path> files_below(const fs::path& path, std::string_view extension) {
  std::vector<fs::path> files;
  std::error_code error;
  auto at = fs::recursive_directory_iterator(path, fs::directory_options::follow_directory_symlink,
                                             error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    const bool hidden = at->path().filename().string().starts_with('.');
    std::error_code ignored;  // what is no directory and cannot be read is named when it is opened
    if (at->is_directory(ignored)) {
      if (hidden) at.disable_recursion_pending();
    } else if (!hidden && at->path().extension() == extension) {
      files.push_back(at->path().lexically_relative(path));
    }
  }
  if (error) machine_error("cannot list {}: {}", path.string(), error.message());
  std::ranges::sort(files);
  return files;
}

}  // namespace

bool is_of_split(const fs::path& file, std::string_view split) {
  if (split.empty()) return true;
  bool of_another = false;
  for (const fs::path& directory : file.parent_path()) {
    const std::string name = directory.string();
    if (has_word(name, split)) return true;
    of_another = of_another || has_known_word(name);
  }
  return !of_another && has_word(file.stem().string(), split);
}

std::vector<fs::path> choose_split(const std::vector<fs::path>& files, std::string_view split,
                                   const fs::path& root) {
  const bool is_known = std::ranges::find(kKnown, split) != kKnown.end();
  std::vector<fs::path> chosen;
  for (const fs::path& file : files) {
    if (!is_of_split(file, split)) continue;
    if (is_known) refuse_both(file, root / file);
    chosen.push_back(file);
  }
  return chosen;
}

std::vector<fs::path> find_split(const fs::path& path, std::string_view split,
                                 std::string_view extension) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return {};
  std::vector<fs::path> files;
  for (const fs::path& file : choose_split(files_below(path, extension), split, path)) {
    files.push_back(path / file);
    if (fs::exists(files.back(), ignored) && !fs::is_regular_file(files.back(), ignored)) {
      user_error("{} is neither a file nor a directory; remove it", files.back().string());
    }
  }
  return files;
}

std::vector<fs::path> files_of_split(const fs::path& path, std::string_view split,
                                     std::string_view extension) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return {path};
  const bool absent = fs::symlink_status(path, ignored).type() == fs::file_type::not_found;
  if (absent) user_error("{} does not exist", path.string());
  require_directory(path, "data");
  std::vector<fs::path> files = find_split(path, split, extension);
  if (files.empty() && split.empty()) user_error("{} holds no {} file", path.string(), extension);
  if (files.empty()) {
    user_error("{} holds no {} file of split '{}'; {}", path.string(), extension, split,
               describe_splits(path, extension));
  }
  return files;
}

std::string describe_splits(const fs::path& path, std::string_view extension) {
  const std::vector<fs::path> files = files_below(path, extension);
  return files.empty() ? fmt::format("it holds no {} file", extension) : describe_splits(files);
}

std::string describe_splits(const std::vector<fs::path>& files) {
  constexpr size_t kNames = 3;
  std::vector<std::string_view> splits;
  for (const std::string_view split : kKnown) {
    const auto is_its = [&](const fs::path& file) { return is_of_split(file, split); };
    if (std::ranges::any_of(files, is_its)) splits.push_back(split);
  }
  if (!splits.empty()) return fmt::format("it has those of {}", fmt::join(splits, ", "));
  std::vector<std::string> names;
  for (const fs::path& file : files) {
    if (names.size() < kNames) names.push_back(file.string());
  }
  return fmt::format("its files tell no split: {}{}; one without a name takes all",
                     fmt::join(names, ", "), files.size() > kNames ? ", ..." : "");
}

}  // namespace trestle
