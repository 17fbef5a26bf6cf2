#include "parallel/journal.h"

#include <fmt/format.h>

namespace trestle {

void Journal::at_step(int64_t step, std::string rows) {
  const std::scoped_lock lock(mutex_);
  step_ = step;
  rows_ = std::move(rows);
}

int64_t Journal::begin(std::string collective) {
  const std::scoped_lock lock(mutex_);
  running_ = std::move(collective);
  began_ = std::chrono::steady_clock::now();
  return ++collectives_;
}

void Journal::end() {
  const std::scoped_lock lock(mutex_);
  last_ = std::move(running_);
  running_.clear();
}

std::string Journal::where() const {
  const std::scoped_lock lock(mutex_);
  std::string line = step_ == 0 ? "before the first step" : fmt::format("step {}", step_);
  if (!rows_.empty()) line += ", rows " + rows_;
  if (!running_.empty()) {
    line += fmt::format(", in {} (its collective {})", running_, collectives_);
  } else if (!last_.empty()) {
    line += fmt::format(", behind {} (its collective {})", last_, collectives_);
  }
  return line;
}

std::optional<std::chrono::steady_clock::time_point> Journal::running_since() const {
  const std::scoped_lock lock(mutex_);
  return running_.empty() ? std::nullopt : std::optional(began_);
}

int64_t Journal::collectives() const {
  const std::scoped_lock lock(mutex_);
  return collectives_;
}

}  // namespace trestle
