#include "data/check.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"

namespace trestle {

namespace {

constexpr size_t kKeptErrors = 10;

int64_t trained_turns(const Conversation& conversation) {
  return std::ranges::count_if(conversation.messages, [](const Message& message) {
    return message.role == Role::kAssistant && message.trained && !message.prefix;
  });
}

// Adds one sample to what `report.policy` makes of the set.
void add(OverlongReport& report, const Processor& processor, const Conversation& conversation,
         const Sample& sample, int64_t seq_length, int64_t eos) {
  std::optional<Sample> kept = sample;
  if (std::ssize(sample.ids) > seq_length) {
    try {
      kept = fit(processor, conversation, seq_length, report.policy, "");
      report.dropped += !kept;
      report.shrunk += report.policy == Overlong::kShrinkImage;
      report.cut += report.policy == Overlong::kCutText;
    } catch (const UserError&) {
      kept.reset();
      ++report.refused;
    }
  }
  if (!kept) return;
  report.targets += kept->targets();
  report.eos += std::ranges::count(kept->labels, eos);
  report.turns += trained_turns(conversation);
}

void add(DataReport& report, int64_t row, const Conversation& conversation, const Sample& sample,
         int64_t eos) {
  report.lengths.push_back(std::ssize(sample.ids));
  const int64_t targets = sample.targets();
  report.targets += targets;
  if (targets == 0) report.untrained.push_back(row);
  if (targets == std::ssize(sample.ids) - 1) report.all_trained.push_back(row);
  report.turns += trained_turns(conversation);
  report.turns_with_eos += std::ranges::count(sample.labels, eos);
  report.images += std::ssize(sample.images_CHW);
  report.text_only += sample.images_CHW.empty();
  for (const auto& [begin, end] : sample.image_spans) report.image_tokens += end - begin;
  for (const at::Tensor& image : sample.images_CHW) {
    report.largest_height = std::max(report.largest_height, image.size(1));
    report.largest_width = std::max(report.largest_width, image.size(2));
  }
}

bool says(const Conversation& conversation, std::string_view words) {
  return std::ranges::any_of(conversation.messages, [&](const Message& message) {
    return std::ranges::any_of(message.parts, [&](const Part& part) {
      return part.text.find(words) != std::string::npos;
    });
  });
}

std::string unread_note(std::string_view key) { return fmt::format("nobody reads \"{}\"", key); }

void add_notes(DataReport& report, const Conversation& conversation) {
  for (const std::string& key : conversation.unread) ++report.notes[unread_note(key)];
  // Places of pictures, films and sound as other tools' texts have them.
  for (const char* place : {"<image>", "<video>", "<audio>", "<img>", "<image_1>", "<image 1>",
                            "<|image|>", "<|image_1|>", "<|image_pad|>", "<|vision_start|>",
                            "<image_placeholder>", "<ImageHere>", "<start_of_image>", "[IMG]"}) {
    if (says(conversation, place)) {
      ++report.notes[fmt::format("the text says \"{}\", which is read as words", place)];
    }
  }
}

}  // namespace

int64_t DataReport::tokens() const {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

double DataReport::target_share() const {
  return tokens() == 0 ? 0 : static_cast<double>(targets) / static_cast<double>(tokens());
}

int64_t DataReport::quantile(double share) const {
  if (lengths.empty()) return 0;
  std::vector<int64_t> sorted = lengths;
  std::ranges::sort(sorted);
  const auto last = static_cast<double>(sorted.size() - 1);
  return sorted[static_cast<size_t>(std::lround(share * last))];
}

int64_t DataReport::longer_than(int64_t length) const {
  return std::ranges::count_if(lengths, [&](int64_t each) { return each > length; });
}

DataReport check_data(const Dataset& dataset, const Processor& processor, int64_t rows,
                      int64_t seq_length, const std::function<void(int64_t)>& on_row) {
  const int64_t eos = processor.tokenizer().special("</s>");
  DataReport report;
  report.rows = rows > 0 ? std::min(rows, dataset.size()) : dataset.size();
  for (const Overlong policy :
       {Overlong::kError, Overlong::kDrop, Overlong::kShrinkImage, Overlong::kCutText}) {
    report.overlong.push_back({.policy = policy});
  }
  for (const auto& [column, rows] : dataset.unknown_columns()) {
    report.notes[unread_note(column)] += std::min(rows, report.rows);
  }
  for (int64_t row = 0; row < report.rows; ++row) {
    try {
      const Conversation conversation = dataset.row(row);
      const Sample sample = processor.process(conversation, Ending::kSample);
      add(report, row, conversation, sample, eos);
      add_notes(report, conversation);
      for (OverlongReport& each : report.overlong) {
        add(each, processor, conversation, sample, seq_length, eos);
      }
    } catch (const UserError& error) {
      ++report.bad_rows;
      if (report.errors.size() < kKeptErrors) {
        report.errors.push_back(fmt::format("row {}: {}", row, error.what()));
      }
    }
    if (on_row) on_row(row + 1);
  }
  return report;
}

}  // namespace trestle
