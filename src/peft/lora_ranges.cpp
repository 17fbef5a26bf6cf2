// What an adapter's file may say: its numbers stand under other names than the run's config and
// within the same bounds. Apart from lora.cpp, as the fuzz targets read such files without a model.
#include <cmath>

#include "base/error.h"
#include "peft/lora.h"

namespace trestle {

namespace {

double checked(const std::string& key, const Range& range, double value) {
  check_value(key, range, value);
  return value;
}

}  // namespace

int64_t checked_rank(const std::string& key, double rank) {
  if (rank != std::floor(rank)) user_error("{}={}: must be a whole number", key, rank);
  return static_cast<int64_t>(checked(key, range_of(&LoraConfig::dim), rank));
}

double checked_alpha(const std::string& key, double alpha) {
  return checked(key, range_of(&LoraConfig::alpha), alpha);
}

double checked_dropout(const std::string& key, double dropout) {
  return checked(key, range_of(&LoraConfig::dropout), dropout);
}

}  // namespace trestle
