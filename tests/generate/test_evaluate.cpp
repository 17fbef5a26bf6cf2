// A model's answers to a data set: which rows, in which batches, and what is told of each.
#include <gtest/gtest.h>

#include <filesystem>

#include "bridge/load.h"
#include "errors.h"
#include "generate/evaluate.h"
#include "generate/stop.h"
#include "model/ministral3.h"

namespace trestle {
namespace {

constexpr const char *kModel = "../assets/demo/model", *kReceipts = "../assets/demo/data";

class Questions : public Dataset {
 public:
  explicit Questions(std::vector<Conversation> rows) : rows_(std::move(rows)) {}
  std::vector<std::filesystem::path> files() const override { return {}; }
  int64_t size() const override { return std::ssize(rows_); }
  Conversation row(int64_t index) const override { return rows_[static_cast<size_t>(index)]; }
  Json ground_truth(int64_t index) const override { return index == 2 ? Json{{"a", "b"}} : Json(); }

 private:
  std::vector<Conversation> rows_;
};

Conversation ask(const std::string& question, const std::string& answer) {
  return {{text_message(Role::kUser, question), text_message(Role::kAssistant, answer)}, {}};
}

class Evaluate : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = load_model(OpenCheckpoint(kModel), {at::kFloat, at::kCPU});
    model_->eval();
  }
  Evaluation run(const EvaluationOptions& options, std::vector<int64_t>* told = nullptr) const {
    return evaluate(*model_, processor_, questions_, options, [told](int64_t done) {
      if (told != nullptr) told->push_back(done);
    });
  }
  // The same prompt by the generator alone.
  std::string answer(const std::string& question, int64_t tokens) const {
    const Sample prompt =
        processor_.process({{text_message(Role::kUser, question)}, {}}, Ending::kPrompt);
    const Generator generator(*model_, stop_ids(processor_.tokenizer()));
    const auto result = generator.generate({prompt}, {.max_new_tokens = tokens});
    return processor_.tokenizer().decode(result.sequences.at(0).ids);
  }

  Processor processor_{kModel};
  std::shared_ptr<Ministral3> model_;
  Questions questions_{{ask("One?", "1"), ask("And two?", "2"), ask("Three, please.", "3"),
                        ask("4", "four"), ask("Is it five?", "5")}};
};

TEST_F(Evaluate, EveryRowIsAnsweredAsAlone) {
  const char* questions[] = {"One?", "And two?", "Three, please.", "4", "Is it five?"};
  const char* wanted[] = {"1", "2", "3", "four", "5"};
  std::vector<int64_t> told;
  const Evaluation all = run({.batch_size = 2, .max_new_tokens = 5}, &told);
  EXPECT_EQ(told, (std::vector<int64_t>{2, 4, 5}));
  EXPECT_GT(all.seconds, 0);
  ASSERT_EQ(all.answers.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    const ScoredAnswer& each = all.answers[i];
    EXPECT_EQ(each.row, static_cast<int64_t>(i));
    EXPECT_EQ(each.prompt, questions[i]);
    EXPECT_EQ(each.wanted, wanted[i]);
    EXPECT_EQ(each.pictures, 0);
    EXPECT_EQ(each.answer, answer(questions[i], 5)) << questions[i];
    EXPECT_EQ(each.truth.is_object(), i == 2);
  }
}

TEST_F(Evaluate, TheFirstRowsOrAsManyAsThereAre) {
  EXPECT_EQ(run({.rows = 3, .batch_size = 2, .max_new_tokens = 1}).answers.size(), 3u);
  EXPECT_EQ(run({.rows = 9, .batch_size = 4, .max_new_tokens = 1}).answers.size(), 5u);
}

TEST_F(Evaluate, PicturesAreCounted) {
  const auto receipts = make_dataset("make_cord_v2_dataset", kReceipts, "test");
  const Evaluation one =
      evaluate(*model_, processor_, *receipts, {.rows = 1, .max_new_tokens = 1}, {});
  ASSERT_EQ(one.answers.size(), 1u);
  EXPECT_EQ(one.answers[0].pictures, 1);
  EXPECT_EQ(one.answers[0].truth, receipts->ground_truth(0));
  EXPECT_GT(one.answers[0].total, 1);
}

TEST_F(Evaluate, ARowWithoutAnAnswerIsRefused) {
  for (const auto& messages :
       {std::vector<Message>{}, std::vector<Message>{text_message(Role::kUser, "One?")}}) {
    const Questions questions({ask("One?", "1"), {messages, {}}});
    EXPECT_EQ(
        testing::error_of([&] { evaluate(*model_, processor_, questions, {.max_new_tokens = 1}); }),
        "row 1 does not end with an answer to compare with");
  }
}

}  // namespace
}  // namespace trestle
