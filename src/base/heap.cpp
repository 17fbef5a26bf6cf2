#include "base/heap.h"

#include <fmt/format.h>
#include <malloc.h>

#include <cstdlib>

namespace trestle {

namespace {

// What stands in `text` between two others; empty where it does not.
std::string_view between(std::string_view text, std::string_view before, std::string_view behind) {
  const size_t found = text.find(before);
  if (found == std::string_view::npos) return {};
  text.remove_prefix(found + before.size());
  return text.substr(0, text.find(behind));
}

}  // namespace

void settle_heap() {
  // libtorch's own switch, which it reads once: 2 MiB and more are aligned to it and advised.
  ::setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
#ifdef __GLIBC__
  // Either call ends glibc's own adjustment, which goes by what was freed first: by chance.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

std::optional<std::string> memory_asked(std::string_view error) {
  const bool of_cpu = error.find("can't allocate memory") != std::string_view::npos;
  const bool of_card = error.find("CUDA out of memory") != std::string_view::npos ||
                       error.find("STATUS_ALLOC_FAILED") != std::string_view::npos;
  if (!of_cpu && !of_card) return std::nullopt;
  const std::string_view asked = between(error, "ried to allocate ", ". ");
  if (asked.empty()) return "libtorch does not say how much was asked for";
  const std::string_view total = between(error, "has a total capacity of ", " of which ");
  const std::string_view free = between(error, " of which ", " is free");
  std::string text = fmt::format("{} were asked for", asked);
  if (!total.empty() && !free.empty()) text += fmt::format(", of {} {} are free", total, free);
  return text;
}

}  // namespace trestle
