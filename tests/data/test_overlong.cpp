// Samples that are too long, and bounds on pictures.
#include <gtest/gtest.h>

#include <algorithm>

#include "data/datasets.h"
#include "data/overlong.h"
#include "errors.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;

const std::filesystem::path kModel = "../assets/demo/model";

class Overlength : public ::testing::Test {
 protected:
  std::string error_at(int64_t length, Overlong policy) const {
    return error_of([&] { fit(processor_, conversation_, length, policy, "row 0"); });
  }
  Sample fitted(int64_t length, Overlong policy) const {
    return *fit(processor_, conversation_, length, policy, "row 0");
  }

  const Processor processor_{kModel};
  const std::unique_ptr<Dataset> dataset_ =
      make_dataset("make_cord_v2_dataset", "../assets/demo/data", "test");
  const Conversation conversation_ = dataset_->row(0);
  const Sample whole_ = processor_.process(conversation_, Ending::kSample);
  const int64_t length_ = std::ssize(whole_.ids);
};

TEST_F(Overlength, WhatFitsIsLeftAlone) {
  for (const Overlong policy :
       {Overlong::kError, Overlong::kDrop, Overlong::kShrinkImage, Overlong::kCutText}) {
    EXPECT_EQ(fitted(length_, policy).ids, whole_.ids);
  }
}

// users' pain point 9: pictures cut through.
TEST_F(Overlength, ErrorAndDrop) {
  expect_mentions(error_at(length_ - 1, Overlong::kError),
                  {"row 0", std::to_string(length_), std::to_string(length_ - 1), "shrink-image"});
  EXPECT_FALSE(fit(processor_, conversation_, length_ - 1, Overlong::kDrop, "row 0"));
}

// users' pain point 9: pictures cut through.
TEST_F(Overlength, ShrinkingKeepsTextAndTargets) {
  const auto [begin, end] = whole_.image_spans.at(0);
  const int64_t text = length_ - (end - begin);
  for (const int64_t length : {length_ - 1, text + (end - begin) / 2, text + 2}) {
    const Sample small = fitted(length, Overlong::kShrinkImage);
    EXPECT_LE(std::ssize(small.ids), length);
    EXPECT_EQ(small.targets(), whole_.targets());
    const auto [from, to] = small.image_spans.at(0);
    EXPECT_EQ(std::ssize(small.ids) - (to - from), text);
    EXPECT_LT(small.images_CHW.at(0).numel(), whole_.images_CHW.at(0).numel());
    // No smaller than it had to be, by more than a row of tokens.
    EXPECT_GT(std::ssize(small.ids), length - (end - begin) / 2);
  }
  expect_mentions(error_at(text + 1, Overlong::kShrinkImage), {"at their smallest"});
}

// users' pain point 9: pictures cut through.
TEST_F(Overlength, TextIsCutAndNoPicture) {
  const Sample cut = fitted(length_ - 5, Overlong::kCutText);
  ASSERT_EQ(std::ssize(cut.ids), length_ - 5);
  EXPECT_TRUE(std::equal(cut.ids.begin(), cut.ids.end(), whole_.ids.begin()));
  EXPECT_EQ(cut.labels.back(), -100);
  EXPECT_TRUE(std::equal(cut.labels.begin(), cut.labels.end() - 1, whole_.labels.begin()));
  const auto [begin, end] = whole_.image_spans.at(0);
  for (int64_t length = begin; length < end; ++length) {
    const Sample before = cut_text(whole_, length);
    EXPECT_EQ(std::ssize(before.ids), begin);
    EXPECT_TRUE(before.images_CHW.empty() && before.image_spans.empty());
  }
  EXPECT_EQ(cut_text(whole_, end).images_CHW.size(), 1u);
  expect_mentions(error_at(end, Overlong::kCutText), {"hold no target"});
}

// users' pain point 10: bounds on pixels ignored.
TEST_F(Overlength, PicturesHaveBounds) {
  const auto tokens = [&](const ImageLimits& limits) {
    const Sample sample = Processor(kModel, limits).process(conversation_, Ending::kSample);
    const auto [begin, end] = sample.image_spans.at(0);
    return end - begin;
  };
  const int64_t all = tokens({});
  EXPECT_LT(tokens({.max_edge = 100, .max_tokens = 0}), all);
  EXPECT_EQ(tokens({.max_edge = 10'000, .max_tokens = 0}), all);
  for (const int64_t most : {int64_t{2}, int64_t{3}, int64_t{7}, all / 2, all - 1, all, all + 5}) {
    const int64_t got = tokens({.max_edge = 0, .max_tokens = most});
    EXPECT_LE(got, most);
    if (most >= all) {
      EXPECT_EQ(got, all);
    }
  }
}

TEST(Overlong, Names) {
  for (const char* name : {"error", "drop", "shrink-image", "cut-text"}) {
    EXPECT_TRUE(overlong_of_name(name)) << name;
  }
  EXPECT_FALSE(overlong_of_name("cut"));
}

// users' pain point 12: an end of turn that is not learnt.
TEST(Masks, EndOfTurnIsLearntWhereTheTurnIsWhole) {
  const Processor processor(kModel);
  const int64_t eos = processor.tokenizer().special("</s>");
  const auto sample_of = [&](std::vector<Message> messages) {
    return processor.process({std::move(messages), nullptr}, Ending::kSample);
  };
  const auto ends = [&](const Sample& sample) { return std::ranges::count(sample.labels, eos); };
  const Message user = text_message(Role::kUser, "how many?");
  const Message assistant = text_message(Role::kAssistant, "three of them");

  const Sample one = sample_of({user, assistant});
  EXPECT_EQ(ends(one), 1);
  EXPECT_EQ(one.labels.at(one.labels.size() - 2), eos);  // what follows the last word
  EXPECT_EQ(one.labels.back(), -100);                    // nothing follows the end
  const auto [first, last] =
      std::pair(std::ranges::find_if(one.labels, [](int64_t label) { return label != -100; }) -
                    one.labels.begin(),
                std::ssize(one.labels) - 1);
  EXPECT_EQ(one.targets(), last - first);  // all of the answer, and the prompt nowhere

  EXPECT_EQ(ends(sample_of({user, assistant, user, assistant})), 2);
  // A user who has the last word has said nothing that could be learnt.
  EXPECT_REFUSED(sample_of({user, assistant, user}), "messages[2] (user)");
  // What is cut off is not learnt, and nothing takes its place.
  const Sample cut = cut_text(one, std::ssize(one.ids) - 1);
  EXPECT_EQ(ends(cut), 0);
  EXPECT_EQ(cut.labels.back(), -100);
  EXPECT_EQ(cut.targets(), one.targets() - 1);
}

}  // namespace
}  // namespace trestle
