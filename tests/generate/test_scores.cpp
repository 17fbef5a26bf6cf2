// Scores of answers against Donut's own evaluator, nltk's edit distance and the anls package
// (tools/make_score_goldens.py), and the letters of a choice.
#include <gtest/gtest.h>

#include "base/json.h"
#include "generate/evaluate.h"
#include "generate/scores.h"

namespace trestle {
namespace {

const Json& goldens() {
  static const Json all = read_json("generate/golden/scores.json");
  return all;
}

TEST(Scores, DocumentsAreDonuts) {
  int64_t told_apart = 0;
  for (const Json& each : goldens().at("documents")) {
    const Json &truth = each["truth"], &answer = each["answer"];
    const FieldCounts fields = count_fields(truth, answer);
    const double found = static_cast<double>(fields.same) + static_cast<double>(fields.other) / 2;
    if (each["f1"].is_null()) {
      EXPECT_EQ(found, 0) << each.dump();
    } else {
      EXPECT_NEAR(static_cast<double>(fields.same) / found, each["f1"].get<double>(), 1e-12)
          << each.dump();
    }
    if (each["accuracy"].is_null()) continue;
    const auto accuracy = each["accuracy"].get<double>();
    EXPECT_NEAR(tree_edit_accuracy(truth, answer), accuracy, 1e-12) << each.dump();
    told_apart += accuracy > 0 && accuracy < 1;
  }
  EXPECT_GT(told_apart, 20);
}

TEST(Scores, TextsAreNltksAndAnlss) {
  ASSERT_GT(goldens().at("texts").size(), 50u);
  for (const Json& each : goldens().at("texts")) {
    const auto answer = each["answer"].get<std::string>(),
               wanted = each["wanted"].get<std::string>();
    EXPECT_EQ(edit_distance(answer, wanted), each["edit_distance"].get<int64_t>()) << each.dump();
    // Nothing asked for and nothing said: the package counts that as right, too.
    EXPECT_NEAR(anls(answer, wanted), each["anls"].get<double>(), 1e-12) << each.dump();
  }
}

// Python's str.lower, block by block.
TEST(Scores, CaseIsNoDifferenceInAnyAlphabet) {
  for (const auto& [upper, lower] : {std::pair{"AZ", "az"},
                                     {"ÀÖ", "àö"},
                                     {"ØÞ", "øþ"},
                                     {"ΑΡ", "αρ"},
                                     {"ΣΫ", "σϋ"},
                                     {"АЯ", "ая"},
                                     {"ЀЏ", "ѐџ"}}) {
    EXPECT_EQ(anls(upper, lower), 1) << upper;
  }
  EXPECT_EQ(anls("×÷", "÷×"), 0);  // between the letters of Latin-1, and of none
}

// Donut's token2json makes {"text_sequence": TEXT} of it.
TEST(Scores, TextWithoutTagsIsOneField) {
  const Json truth = {{"text_sequence", "cake"}};
  EXPECT_EQ(tree_edit_accuracy(truth, "cake"), 1);
  const FieldCounts fields = count_fields(truth, "cake");
  EXPECT_EQ(fields.same, 1);
  EXPECT_EQ(fields.other, 0);
}

TEST(Scores, OfNothingIsRightWhenNothingIsSaid) {
  EXPECT_EQ(tree_edit_accuracy(Json::object(), Json::object()), 1);
  EXPECT_EQ(tree_edit_accuracy(Json::object(), Json{{"a", "b"}}), 0);
}

TEST(Scores, AnAnswerWithoutEndIsNotWorthTheTime) {
  Json many = Json::array();
  for (int i = 0; i < 3'000; ++i) many.push_back("x");
  const Json truth = {{"menu", {{"nm", "x"}}}};
  EXPECT_EQ(tree_edit_accuracy(truth, Json{{"menu", many}}), 0);
  EXPECT_EQ(tree_edit_accuracy(truth, Json{{"menu", std::string(200'000, 'x')}}), 0);
  EXPECT_EQ(count_fields(truth, Json{{"menu", many}}).other, 3'001);
}

TEST(Scores, ChoicesAreLettersThatStandAlone) {
  for (const char* text :
       {"B", "b", "B.", "(B)", "Answer: B", "The answer is B, not C.", "option B"}) {
    EXPECT_EQ(choice_of(text), 'B') << text;
  }
  EXPECT_EQ(choice_of("a cat"), std::nullopt);
  EXPECT_EQ(choice_of("I"), std::nullopt);
  EXPECT_EQ(choice_of("BAD"), std::nullopt);
  EXPECT_EQ(choice_of(""), std::nullopt);
  EXPECT_TRUE(is_choice("D."));
  EXPECT_TRUE(is_choice("The correct answer is (D)"));
  EXPECT_FALSE(is_choice("Vitamin D"));
  EXPECT_FALSE(is_choice("A or B"));
  EXPECT_FALSE(is_choice("On the left."));
}

Evaluation evaluated(std::vector<ScoredAnswer> answers) { return {std::move(answers), 0}; }

TEST(Scores, OfReceipts) {
  const Json truth = {{"menu", {{"nm", "Tea"}, {"cnt", "1"}}}};
  const auto right = score_answer("<s_menu><s_nm>Tea</s_nm><s_cnt>1</s_cnt></s_menu>",
                                  "<s_menu><s_nm>Tea</s_nm><s_cnt>1</s_cnt></s_menu>", truth);
  const auto half = score_answer("<s_menu><s_nm>Tea</s_nm></s_menu>", right.wanted, truth);
  const auto scores = evaluated({right, half}).scores();
  EXPECT_EQ(scores.at("exact_match"), 0.5);
  EXPECT_DOUBLE_EQ(scores.at("field_f1"), 3 / 3.5);
  EXPECT_DOUBLE_EQ(scores.at("tree_edit_accuracy"), (1 + (1 - 2 / 8.0)) / 2);
  EXPECT_FALSE(scores.contains("choice_accuracy"));
}

TEST(Scores, OfChoicesAndOfText) {
  const auto choices =
      evaluated({score_answer("Answer: B", "B.", "B."), score_answer("C", "D", "D")}).scores();
  EXPECT_EQ(choices.at("choice_accuracy"), 0.5);
  EXPECT_EQ(choices.at("exact_match"), 0);
  EXPECT_FALSE(choices.contains("field_f1"));
  // MedPix: a text is right when it is that text.
  const ScoredAnswer wrong = score_answer("An arm.", "A chest.", "A chest.");
  EXPECT_FALSE(wrong.whole());
  EXPECT_TRUE(score_answer("A chest.", "A chest.", "A chest.").whole());
  EXPECT_FALSE(evaluated({wrong}).scores().contains("choice_accuracy"));
  // A letter among texts makes no set of choices.
  EXPECT_FALSE(
      evaluated({score_answer("B", "B", "B"), wrong}).scores().contains("choice_accuracy"));
}

}  // namespace
}  // namespace trestle
