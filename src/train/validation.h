// Validation inside the training loop: loss and scores on rows that are not trained on, of one set
// or of several by name, and which step was the best. Called by the trainer.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/datasets.h"
#include "metrics/values.h"
#include "recipes/config.h"
#include "run/checkpoint.h"
#include "train/feature_cache.h"
#include "train/pipeline.h"

namespace trestle {

class Validation {
 public:
  /// As validation.* say, one a set; none where it is off or, with a line on stderr, where there is
  /// nothing to validate on. Keeps references to the config and the processor. Throws UserError
  /// when data cannot be opened or have no such score as validation.best_metric.
  /// `asked`: keys that somebody set; where a set has fewer rows than they say, a line tells so.
  static std::vector<std::unique_ptr<Validation>> make_all(const TrainConfig& config,
                                                           const Processor& processor,
                                                           const std::set<std::string>& asked = {});

  /// Behind every validation.eval_interval-th step and the last.
  bool is_due(int64_t step) const;
  /// Leaves the model in training mode, and torch's random state as it was. `features` may be null.
  /// Throws UserError naming a row that cannot be used. Rows are shared out over grid.data, and
  /// what is found is of all of them.
  ValidationMetrics run(Ministral3& model, Pipeline& pipeline, FeatureCache* features, int64_t step,
                        const Grid& grid) const;
  /// What validation.best_metric is measured on: rows, their files by content (content_of), and the
  /// values of keys on which the number depends. Empty where no metric is named, or that of
  /// another set.
  const std::string& measured_on() const { return measured_on_; }
  /// `best` where its number is one of the same metric, measured on the same; nothing, and a line
  /// on stderr, where it is not: it says nothing of the numbers to come.
  std::optional<BestStep> comparable(const std::optional<BestStep>& best) const;
  /// The metrics as the best ones, if validation.best_metric is of this set and they are better by
  /// it than `before`.
  std::optional<BestStep> better(const ValidationMetrics& metrics,
                                 const std::optional<BestStep>& before) const;

 private:
  // Where the rows come from: a set of its name, or of none, and by which maker.
  struct Source {
    std::string set, maker;
    DataName data;
  };
  static std::vector<Source> sources(const TrainConfig& config);
  Validation(const TrainConfig& config, const Processor& processor, const Source& source);
  /// -log p and number of targets.
  struct LossSum {
    double sum = 0;
    int64_t targets = 0;
  };
  /// Of this rank's rows.
  LossSum loss_sum(Pipeline& pipeline, FeatureCache* features, const Grid& grid) const;
  /// Of [first, last) those that are this data rank's and not dropped.
  std::vector<Sample> samples(int64_t first, int64_t last, const Group& data) const;
  double loss(Pipeline& pipeline, FeatureCache* features, const Grid& grid) const;
  std::vector<ScoredAnswer> answers(const Ministral3& model, const Grid& grid) const;
  void check_best_metric() const;
  void tell_of_missing_rows(const std::set<std::string>& asked) const;
  int64_t rows_of_loss() const;
  std::string describe_measure() const;
  bool is_comparable(const BestStep& best) const;

  const TrainConfig& config_;
  const Processor& processor_;
  const Source source_;
  std::string metric_;  // of validation.best_metric, where that is of this set
  std::unique_ptr<Dataset> dataset_;
  std::string measured_on_;
};

}  // namespace trestle
