#include "base/suggestion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <numeric>

namespace trestle {

namespace {

constexpr size_t kOtherGroup = 2;  // as far as two letters

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

// Damerau's distance in which no letter is moved twice ("optimal string alignment").
size_t edit_distance(std::string_view a, std::string_view b) {
  const size_t columns = b.size() + 1;
  std::vector<size_t> before(columns), last(columns), row(columns);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = lower(a[i - 1]) == lower(b[j - 1]);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
                           lower(a[i - 2]) == lower(b[j - 1]);
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last.back();
}

// Of names without a dot; nothing where it is over the bound.
std::optional<size_t> near_distance(std::string_view name, std::string_view candidate) {
  const size_t bound = std::max<size_t>(name.size(), 3) / 3;
  const size_t shorter = std::min(name.size(), candidate.size());
  const size_t longer = std::max(name.size(), candidate.size());
  if (longer - shorter > bound) return std::nullopt;  // and a name may be as long as a file
  const size_t distance = edit_distance(name, candidate);
  // Words without a letter in common are not near, however short they are.
  const bool is_other = longer > 0 && distance >= longer;
  return distance > bound || is_other ? std::nullopt : std::optional(distance);
}

struct Dotted {
  std::string_view group, leaf;

  explicit Dotted(std::string_view name) : leaf(name) {
    const size_t dot = name.rfind('.');
    if (dot == name.npos) return;
    group = name.substr(0, dot);
    leaf = name.substr(dot + 1);
  }
};

std::optional<size_t> distance_between(std::string_view name, std::string_view candidate) {
  const Dotted given(name), other(candidate);
  const auto of_leaf = near_distance(given.leaf, other.leaf);
  if (!of_leaf) return std::nullopt;
  if (given.group.empty() && other.group.empty()) return of_leaf;
  if (const auto of_group = near_distance(given.group, other.group)) return *of_leaf + *of_group;
  if (other.group.empty() || (!given.group.empty() && *of_leaf != 0)) return std::nullopt;
  return *of_leaf + kOtherGroup;
}

}  // namespace

std::optional<std::string> nearest(std::string_view name, const std::vector<std::string>& names) {
  std::optional<std::string> best;
  size_t least = SIZE_MAX;
  for (const std::string& candidate : names) {
    const auto distance = distance_between(name, candidate);
    if (!distance || *distance >= least) continue;
    least = *distance;
    best = candidate;
  }
  return best;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& names,
                         std::string_view otherwise) {
  const auto found = nearest(name, names);
  return found ? fmt::format("did you mean {}?", *found) : std::string(otherwise);
}

std::optional<std::string> begun_or_nearest(std::string_view word,
                                            const std::vector<std::string>& names) {
  const auto longer = std::ranges::find_if(
      names, [&](const std::string& name) { return word.size() > 2 && name.starts_with(word); });
  return longer != names.end() ? std::optional(*longer) : nearest(word, names);
}

std::string or_meant(std::string_view name, const std::vector<std::string>& names) {
  const auto found = nearest(name, names);
  return found ? fmt::format("; did you mean {}?", *found) : std::string();
}

}  // namespace trestle
