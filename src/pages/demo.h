// demo_report.html: one self-contained page of what the demo did. Called by the demo.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "generate/evaluate.h"
#include "train/trainer.h"

namespace trestle {

struct DemoReport {
  struct Receipt {
    /// Encoded picture as it lies in the data set.
    std::string png;
    Json truth;
    ScoredAnswer before, after;
  };
  struct Stage {
    std::string name;
    double seconds;
  };
  std::vector<Stage> stages;
  std::vector<StepMetrics> steps;
  Evaluation before, after;
  std::vector<Receipt> receipts;
  int64_t train_rows = 0;
  int64_t trainable = 0, total = 0;
  std::string generated_for;  // PNG
  std::string generated;
  std::string machine, date;
};

void write_demo_report(const std::filesystem::path& path, const DemoReport& report);

}  // namespace trestle
