// Answers of a model on a data set against what they should say. Called by `trestle evaluate` and
// the demo.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/datasets.h"
#include "data/processor.h"
#include "generate/generator.h"

namespace trestle {

struct ScoredAnswer {
  int64_t row = 0;
  std::string answer, wanted;
  /// Dataset::ground_truth of the row.
  Json truth = nullptr;
  /// Text of the prompt's last message, and pictures of the whole prompt.
  std::string prompt = {};
  int64_t pictures = 0;
  /// Fields of the truth that the answer has, path and value; and max(fields of the truth, fields
  /// of the answer), so that invented fields cost too. Without a structured truth the whole answer
  /// is the one field.
  int64_t right = 0, total = 0;
  bool whole() const { return right == total; }
};

struct Evaluation {
  std::vector<ScoredAnswer> answers;
  double seconds = 0;
  /// Of all batches.
  GenerationStats stats = {};
  /// Share of fields that are right, over all answers.
  double field_accuracy() const;
  /// Share of answers that are right in every field.
  double whole_accuracy() const;
  /// By name, each from 0 to 1: exact_match and anls of the texts; field_f1 and tree_edit_accuracy
  /// where truths are documents; choice_accuracy where every truth is a letter.
  std::map<std::string, double> scores() const;
};

/// All that scores() may have.
std::vector<std::string> score_names();

struct EvaluationOptions {
  /// The first `rows` rows; 0: all.
  int64_t rows = 0;
  /// Of these the rows whose remainder by `ranks` is `rank`.
  int64_t rank = 0, ranks = 1;
  int64_t batch_size = 20;
  int64_t max_new_tokens = 384;
  /// Of rows that say none.
  std::optional<std::string> reasoning_effort = std::nullopt;
  DecodingOptions decoding = {};
};

/// Greedy answers to every row's prompt. The model must be in eval mode.
Evaluation evaluate(const Forward& forward, const Processor& processor, const Dataset& dataset,
                    const EvaluationOptions& options,
                    const std::function<void(int64_t done)>& progress = {});

/// Scores one answer; see ScoredAnswer.
ScoredAnswer score_answer(const std::string& answer, const std::string& wanted, const Json& truth);

}  // namespace trestle
