#include "data/overlong.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"

namespace trestle {

namespace {

constexpr std::array<std::pair<std::string_view, Overlong>, 4> kNames = {
    {{"error", Overlong::kError},
     {"drop", Overlong::kDrop},
     {"shrink-image", Overlong::kShrinkImage},
     {"cut-text", Overlong::kCutText}}};
constexpr int64_t kSmallestPicture = 2;  // ids of a picture of one patch group

int64_t length_of(const Sample& sample) { return static_cast<int64_t>(sample.ids.size()); }

// The same budget for every picture, found by what is still too much; nothing where none fits.
std::optional<Sample> shrunk(const Processor& processor, const Conversation& conversation,
                             Sample sample, int64_t max_length) {
  while (length_of(sample) > max_length) {
    int64_t largest = 0, all = 0;
    for (const auto& [begin, end] : sample.image_spans) {
      largest = std::max(largest, end - begin);
      all += end - begin;
    }
    if (largest <= kSmallestPicture) return std::nullopt;
    const double share =
        static_cast<double>(all - (length_of(sample) - max_length)) / static_cast<double>(all);
    const auto wanted = static_cast<int64_t>(static_cast<double>(largest) * std::max(share, 0.0));
    sample = processor.process(conversation, Ending::kSample,
                               std::clamp(wanted, kSmallestPicture, largest - 1));
  }
  return sample;
}

}  // namespace

std::optional<Overlong> overlong_of_name(std::string_view name) {
  const auto* found =
      std::ranges::find(kNames, name, &std::pair<std::string_view, Overlong>::first);
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

std::string_view name_of(Overlong policy) {
  return std::ranges::find(kNames, policy, &std::pair<std::string_view, Overlong>::second)->first;
}

std::string overlong_names() {
  std::string names;
  for (const auto& [name, policy] : kNames) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  return names;
}

Sample cut_text(Sample sample, int64_t max_length) {
  if (length_of(sample) <= max_length) return sample;
  int64_t keep = max_length;
  size_t pictures = 0;
  for (const auto& [begin, end] : sample.image_spans) {
    if (end <= keep) {
      ++pictures;
    } else {
      keep = std::min(keep, begin);
      break;
    }
  }
  const auto length = static_cast<size_t>(keep);
  sample.ids.resize(length);
  sample.labels.resize(length);
  if (!sample.labels.empty()) sample.labels.back() = -100;  // what follows is gone
  sample.image_spans.resize(pictures);
  sample.images_CHW.resize(pictures);
  return sample;
}

namespace {

// A picture that cannot be read is of this row.
Sample processed(const Processor& processor, const Conversation& conversation,
                 std::string_view name) {
  try {
    return processor.process(conversation, Ending::kSample);
  } catch (const UserError& error) {
    if (name.empty()) throw;
    user_error("{}: {}", name, error.what());
  }
}

}  // namespace

std::optional<Sample> fit(const Processor& processor, const Conversation& conversation,
                          int64_t max_length, Overlong policy, std::string_view name) {
  Sample sample = processed(processor, conversation, name);
  const int64_t length = length_of(sample);
  if (length <= max_length) return sample;
  switch (policy) {
    case Overlong::kDrop:
      return std::nullopt;
    case Overlong::kCutText:
      sample = cut_text(std::move(sample), max_length);
      if (sample.targets() > 0) return sample;
      user_error(
          "{} has {} tokens and the first {} hold no target; raise model.seq_length or use "
          "dataset.overlong=drop",
          name, length, max_length);
    case Overlong::kShrinkImage:
      if (auto small = shrunk(processor, conversation, std::move(sample), max_length)) return small;
      user_error(
          "{} has {} tokens and does not fit into {} with its pictures at their smallest; raise "
          "model.seq_length or use dataset.overlong=drop",
          name, length, max_length);
    case Overlong::kError:
      break;
  }
  user_error("{} has {} tokens but model.seq_length={}; raise it or choose dataset.overlong ({})",
             name, length, max_length, overlong_names());
}

}  // namespace trestle
