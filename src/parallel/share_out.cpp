#include "parallel/share_out.h"

#include <algorithm>
#include <numeric>

namespace trestle {

std::vector<int64_t> share_out(std::span<const double> costs, int64_t ranks) {
  std::vector<size_t> order(costs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::vector<double> load(static_cast<size_t>(ranks));
  std::vector<int64_t> owners(costs.size());
  for (const size_t item : order) {
    const auto least = std::ranges::min_element(load);
    owners[item] = least - load.begin();
    *least += costs[item];
  }
  return owners;
}

}  // namespace trestle
