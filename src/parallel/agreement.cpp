#include "parallel/agreement.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace trestle {

std::string first_told(const Group& host, const std::string& mine) {
  if (host.is_one()) return mine;
  if (host.max(mine.empty() ? 0 : 1) == 0) return {};
  const std::vector<std::string> texts = host.gather(mine);
  if (std::ranges::all_of(texts, [&](const std::string& text) { return text == texts.front(); })) {
    return texts.front();
  }
  const auto first =
      std::ranges::find_if(texts, [](const std::string& text) { return !text.empty(); });
  return fmt::format("rank {}: {}", first - texts.begin(), *first);
}

std::string first_text(const Group& host, const std::string& mine) {
  for (std::string& text : host.gather(mine)) {
    if (!text.empty()) return std::move(text);
  }
  return {};
}

void together(const Group& host, const std::function<void()>& fn) {
  if (host.is_one()) return fn();
  std::string mine;
  try {
    fn();
  } catch (const UserError& error) {
    mine = error.what();
  }
  const std::string why = first_told(host, mine);
  if (!why.empty()) throw AgreedError(why);
}

}  // namespace trestle
