// report.html: one self-contained page of a run, its curves and what it answered. Called by the
// metrics log.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/chart.h"
#include "base/json.h"
#include "generate/evaluate.h"

namespace trestle {

class RunReport {
 public:
  /// `config` is the resolved config as YAML, `last_step` that of the whole run.
  RunReport(std::filesystem::path path, std::string config, int64_t last_step);

  /// One line of metrics.jsonl, a step's or a validation's.
  void add(const Json& line);
  /// Answers of the last validation that had any, of a set by its name.
  void set_answers(int64_t step, const std::string& set, std::vector<ScoredAnswer> answers);
  /// Replaces the page. `status` is one word of what the run does now: running, finished, ...
  /// Throws MachineError when the disk is full.
  void write(const std::string& status) const;

 private:
  struct Answers {
    int64_t step = 0;
    std::vector<ScoredAnswer> answers;
  };
  std::string body(const std::string& status) const;
  std::string head(const std::string& status) const;
  std::string chart(const std::string& title, const std::vector<std::string>& names,
                    ValueAxis axis = ValueAxis::kLinear) const;
  std::string charts() const;
  std::string answers() const;
  static std::string answers_of(const std::string& set, const Answers& given);

  std::filesystem::path path_;
  std::string config_;
  int64_t last_step_;
  int64_t step_ = 0;
  int64_t skipped_ = 0;
  double seconds_ = 0;
  /// By the names of metrics.jsonl.
  std::map<std::string, Curve> curves_;
  std::map<std::string, Answers> answers_;  // by the set's name
};

}  // namespace trestle
