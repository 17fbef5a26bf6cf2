#include "parallel/by_all.h"

#include <fmt/format.h>

#include <exception>

#include "base/text.h"

namespace trestle {

namespace {

// The first byte of what a rank tells the others.
constexpr char kDone = '+', kFailed = '-';

}  // namespace

std::vector<std::string> by_all(const Group& group, const std::function<std::string()>& fn) {
  std::string told;
  std::exception_ptr failure;
  try {
    told = kDone + fn();
  } catch (const std::exception& error) {
    failure = std::current_exception();
    told = kFailed + first_line(error.what());
  }
  std::vector<std::string> all;
  try {
    all = group.gather(told);
  } catch (const LostRank&) {
    if (!failure) throw;
  }
  if (failure) std::rethrow_exception(failure);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].starts_with(kDone)) {
      throw LostRank(
          fmt::format("rank {}: {}", rank, all[rank].empty() ? "" : all[rank].substr(1)));
    }
    all[rank].erase(0, 1);
  }
  return all;
}

}  // namespace trestle
