// What `trestle compare` found, as a table, JSON or one HTML page.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "bridge/compare.h"

namespace trestle {

struct CompareReport {
  struct Side {
    std::string name;  // as given
    std::string form;  // "Megatron checkpoint", ...
    /// What it answers to the prompt; nothing where it was not asked.
    std::optional<std::string> text;
  };
  Side a, b;
  std::vector<TensorDifference> tensors;
  /// Nothing, and then why not, or empty where they were not asked for.
  std::optional<LogitDifference> logits;
  std::string no_logits;
  std::string prompt;
  std::string no_text;
  /// Of a side that computes no numbers; empty where both do.
  std::string failure;

  int64_t equal() const;
  /// In either side only, of two shapes, or packed in one only.
  int64_t unmatched() const;
  /// Of tensors that both have; infinite where one differs that is not compared by value.
  double max_error() const;
  /// "3 of 81 tensors differ, by up to 0.012 (values up to 3.1)".
  std::string summary() const;
};

/// Tensors that differ, or all of them, and what follows.
std::string compare_table(const CompareReport& report, bool all);
Json compare_json(const CompareReport& report);
std::string compare_html(const CompareReport& report);

}  // namespace trestle
