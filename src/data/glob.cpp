#include "data/glob.h"

#include <vector>

namespace trestle {

namespace {

// The places in a path that what was read of the pattern may reach; [i] is before character i.
using Reached = std::vector<bool>;

bool is_in_class(std::string_view members, char c) {
  const bool negated = members.starts_with('!');
  if (negated) members.remove_prefix(1);
  bool in = false;
  for (size_t i = 0; i < members.size(); ++i) {
    const bool is_range = i + 2 < members.size() && members[i + 1] == '-';
    in = in || (is_range ? members[i] <= c && c <= members[i + 2] : members[i] == c);
    if (is_range) i += 2;
  }
  return in != negated;
}

// Over one character for which `fits` says so.
template <class Fits>
Reached step(const Reached& from, std::string_view path, const Fits& fits) {
  Reached to(from.size(), false);
  for (size_t i = 0; i < path.size(); ++i) to[i + 1] = from[i] && fits(path[i]);
  return to;
}

// Over any number of characters but slashes.
Reached skip_in_name(Reached at, std::string_view path) {
  for (size_t i = 0; i < path.size(); ++i) {
    if (at[i] && path[i] != '/') at[i + 1] = true;
  }
  return at;
}

// Over any number of whole directories, or of characters.
Reached skip_over(Reached at, std::string_view path, bool directories) {
  bool open = false;
  for (size_t i = 0; i < path.size(); ++i) {
    open = open || at[i];
    if (open && (!directories || path[i] == '/')) at[i + 1] = true;
  }
  return at;
}

// Of a class, the place of its end; npos where the bracket stands for itself.
size_t end_of_class(std::string_view pattern, size_t begin) {
  const size_t first = begin + (pattern.substr(begin + 1).starts_with('!') ? 2 : 1);
  return pattern.find(']', first + 1);  // one that comes first is a member
}

}  // namespace

bool matches_glob(std::string_view pattern, std::string_view path) {
  Reached at(path.size() + 1, false);
  at[0] = true;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const bool part_begins = i == 0 || pattern[i - 1] == '/';
    if (part_begins && pattern.substr(i).starts_with("**/")) {
      at = skip_over(std::move(at), path, /*directories=*/true);
      i += 2;
    } else if (part_begins && pattern.substr(i) == "**") {
      at = skip_over(std::move(at), path, /*directories=*/false);
      i += 1;
    } else if (c == '*') {
      at = skip_in_name(std::move(at), path);
    } else if (c == '?') {
      at = step(at, path, [](char other) { return other != '/'; });
    } else if (const size_t end = c == '[' ? end_of_class(pattern, i) : std::string_view::npos;
               end != std::string_view::npos) {
      const std::string_view members = pattern.substr(i + 1, end - i - 1);
      at = step(at, path, [&](char other) { return other != '/' && is_in_class(members, other); });
      i = end;
    } else {
      at = step(at, path, [&](char other) { return other == c; });
    }
  }
  return at.back();
}

}  // namespace trestle
